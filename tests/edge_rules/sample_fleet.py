"""A small fleet that keeps every rule, with something for each rule to look at; tests break it in one place each."""

import json
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from edge_rules.edge_checks import find
from edge_rules.fleet_view import FleetView
from tests.edge_rules.small_elf import wheel

RUNTIME_DIGEST, CODE_DIGEST, COMPILER_DIGEST = "a" * 64, "b" * 64, "d" * 64
TOPIC = "plant/digits/request"
HASH = " --hash=sha256:" + "0" * 64

RUNTIME_RECIPE: dict[str, Any] = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "plant.Runtime",
    "ComponentVersion": "1.4.7",
    "Manifests": [
        {
            "Platform": {"os": "linux", "runtime": "*", "architecture": "aarch64"},
            "Lifecycle": {
                "Setenv": {"HOME_FOLDER": "/var/lib/plant"},
                "install": {
                    "Script": 'sh "{artifacts:decompressedPath}/runtime/install.sh" "{work:path}/"',
                    "Setenv": {"MODE": "strict"},
                    "RequiresPrivilege": False,
                },
                "run": "true",
            },
            "Artifacts": [{"Uri": {"Fn::GetAtt": ["RuntimeCopy", "Uri"]}, "Unarchive": "ZIP"}],
        }
    ],
}
INFERENCE_RECIPE: dict[str, Any] = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "plant.Inference",
    "ComponentVersion": "1.5.2",
    "ComponentConfiguration": {
        "DefaultConfiguration": {
            "requestTopic": TOPIC,
            "accessControl": {
                "aws.greengrass.ipc.mqttproxy": {
                    "plant.Inference:requests": {
                        "operations": ["aws.greengrass#SubscribeToIoTCore"],
                        "resources": [TOPIC],
                    }
                }
            },
        }
    },
    "ComponentDependencies": {
        "plant.Runtime": {"VersionRequirement": ">=1.0.0 <2.0.0", "DependencyType": "SOFT"},
        "aws.greengrass.Nucleus": {"VersionRequirement": ">=2.0.0 <3.0.0", "DependencyType": "HARD"},
    },
    "Manifests": [
        {
            "Platform": {"os": "linux", "runtime": "*"},
            "Lifecycle": {"run": {"Script": 'exec sh "{artifacts:decompressedPath}/code/run.sh" "{kernel:rootPath}/"'}},
            "Artifacts": [{"Uri": {"Fn::GetAtt": ["CodeCopy", "Uri"]}, "Unarchive": "ZIP"}],
        }
    ],
}


class Fleet:
    """Templates in the making and the assets beside them.

    Args:
        folder: Gets the assets.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runtime, self.inference = deepcopy(RUNTIME_RECIPE), deepcopy(INFERENCE_RECIPE)
        self.wheels = ["numpy-2.4.6-cp311-cp311-manylinux_2_28_aarch64.whl", "six-1.17.0-py2.py3-none-any.whl"]
        #: What the device's numpy needs of the C library, and what the compiler's function is given.
        self.glibc = "2.28"
        self.compiler = {"numpy-2.4.6-cp312-cp312-manylinux_2_28_aarch64.whl": wheel("2.28")}
        self.lock = [f"numpy==2.4.6{HASH}", f"six==1.17.0{HASH}"]
        self.other_locks: dict[str, str] = {}
        self.target = "3.11 aarch64"
        self.code = f'client.subscribe_to_iot_core(topic_name="{TOPIC}", qos=1)\nprint(topic=5)\n'
        self.start = "exec python3 -m inference"
        self.more_code: dict[str, str] = {}
        self.script = "java -jar Greengrass.jar --component-default-user ggc_user:ggc_group --provision false"
        self.closing = "nft add rule inet plant output ip daddr 169.254.169.254 meta skuid != 0 reject"
        self.resources: dict[str, Any] = _resources()
        self.parameters: dict[str, Any] = {
            "Image": {
                "Type": "String",
                "Default": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64",
            }
        }

    @property
    def manifest(self) -> dict[str, Any]:
        """The inference component's manifest."""
        found: dict[str, Any] = self.inference["Manifests"][0]
        return found

    def properties(self, logical_id: str) -> dict[str, Any]:
        """Properties of one resource."""
        found: dict[str, Any] = self.resources[logical_id]["Properties"]
        return found

    def findings(self) -> list[tuple[str, str]]:
        """Rule and logical id of every finding."""
        return [(rule.id, each.resource.logical_id) for rule, found in find(self.view()) for each in found]

    def view(self) -> FleetView:
        """Write the assets and read everything as the plugin does."""
        for logical_id, recipe in (("Runtime", self.runtime), ("Inference", self.inference)):
            self.properties(logical_id).setdefault("InlineRecipe", inline(recipe))
        self.properties("Server")["UserData"] = {"Fn::Base64": f"#!/bin/bash\n{self.script}\n{self.closing}\n"}
        lock = "# made by a tool\n" + "\n".join(self.lock) + "\n"
        members: dict[str, str | bytes] = {"target": self.target, "requirements.lock": lock, **self.other_locks}
        members |= {f"wheels/{name}": wheel(self.glibc) if name.startswith("numpy") else "" for name in self.wheels}
        runtime = _zip(self.folder / "runtime.zip", members)
        code = _zip(self.folder / "code.zip", {"inference/main.py": self.code, "run.sh": self.start} | self.more_code)
        compiler = _zip(
            self.folder / "compiler.zip", {f"wheels/{name}": content for name, content in self.compiler.items()}
        )
        template = {"Parameters": self.parameters, "Resources": self.resources}
        (self.folder / "Plant.template.json").write_text(json.dumps(template))
        files = {
            digest: {"source": {"path": path.name, "packaging": "file"}}
            for digest, path in ((RUNTIME_DIGEST, runtime), (CODE_DIGEST, code), (COMPILER_DIGEST, compiler))
        }
        (self.folder / "Plant.assets.json").write_text(json.dumps({"files": files}))
        return FleetView.read([self.folder / "Plant.template.json"])


def inline(recipe: dict[str, Any]) -> Any:
    """Write a recipe as CDK does: one text, or texts joined around what CloudFormation fills in."""
    parts: list[Any] = []
    text = json.dumps(recipe)
    for uri in (each["Uri"] for manifest in recipe["Manifests"] for each in manifest.get("Artifacts") or []):
        if isinstance(uri, dict):
            before, _, text = text.partition(json.dumps(uri))
            parts += [before + '"', uri]
            text = '"' + text
    return {"Fn::Join": ["", [*parts, text]]} if parts else text


def _zip(path: Path, members: Mapping[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _allow(actions: list[str], resources: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _resources() -> dict[str, Any]:
    component = {"Type": "AWS::GreengrassV2::ComponentVersion", "UpdateReplacePolicy": "Retain"}
    trust = {"Statement": [{"Effect": "Allow", "Principal": {"Service": "credentials.iot.amazonaws.com"}}]}
    own_client = {"Fn::Sub": "arn:${AWS::Partition}:iot:::client/${!iot:Connection.Thing.ThingName}*"}
    return {
        "Group": {"Type": "AWS::IoT::ThingGroup", "Properties": {}},
        "RuntimeCopy": {"Type": "Custom::ArtifactCopy", "Properties": {"SourceKey": f"{RUNTIME_DIGEST}.zip"}},
        "CodeCopy": {"Type": "Custom::ArtifactCopy", "Properties": {"SourceKey": f"{CODE_DIGEST}.zip"}},
        "CompilerCopy": {"Type": "Custom::ArtifactCopy", "Properties": {"SourceKey": f"{COMPILER_DIGEST}.zip"}},
        "Framework": {
            "Type": "AWS::Lambda::Function",
            "Properties": {"Runtime": "nodejs22.x", "Environment": {"Variables": {"CALLS": {"Ref": "Optimiser"}}}},
        },
        "Optimiser": {"Type": "AWS::Lambda::Function", "Properties": {"Runtime": "python3.12"}},
        "Optimised": {
            "Type": "Custom::OnnxCompilation",
            "Properties": {
                "ServiceToken": {"Fn::GetAtt": ["Framework", "Arn"]},
                "RuntimeUri": {"Fn::GetAtt": ["CompilerCopy", "Uri"]},
            },
        },
        "Runtime": {**component, "Properties": {}},
        "Inference": {**component, "Properties": {}},
        "Deployment": {
            "Type": "AWS::GreengrassV2::Deployment",
            "Properties": {
                "TargetArn": {"Fn::GetAtt": ["Group", "Arn"]},
                "Components": {
                    "plant.Runtime": {"ComponentVersion": "1.4.7"},
                    "plant.Inference": {"ComponentVersion": "1.5.2"},
                    "aws.greengrass.Nucleus": {"ComponentVersion": "2.16.0"},
                },
                "DeploymentPolicies": {
                    "FailureHandlingPolicy": "ROLLBACK",
                    "ComponentUpdatePolicy": {"Action": "NOTIFY_COMPONENTS", "TimeoutInSeconds": 60},
                },
                "IotJobConfiguration": {
                    "JobExecutionsRolloutConfig": {"MaximumPerMinute": 50},
                    "AbortConfig": {
                        "CriteriaList": [{"Action": "CANCEL", "FailureType": kind} for kind in ("FAILED", "TIMED_OUT")]
                    },
                },
            },
        },
        "DevicePolicy": {
            "Type": "AWS::IoT::Policy",
            "Properties": {
                "PolicyDocument": {
                    "Statement": [
                        _allow(["iot:Connect"], own_client),
                        _allow(["iot:Publish"], [{"Fn::Sub": f"arn:${{AWS::Partition}}:iot:::topic/{TOPIC}"}]),
                        _allow(["greengrass:ResolveComponentCandidates"], "*"),
                    ]
                }
            },
        },
        "TokenExchange": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": trust,
                "ManagedPolicyArns": [],
                "Policies": [
                    {
                        "PolicyDocument": {
                            "Statement": [
                                _allow(["s3:GetObject"], [{"Fn::Sub": "arn:${AWS::Partition}:s3:::plant/artifacts/*"}]),
                                _allow(["greengrass:ListThingGroupsForCoreDevice"], "*"),
                            ]
                        }
                    }
                ],
            },
        },
        "Compilation": {
            "Type": "Custom::NeoCompilation",
            "Properties": {"Framework": "PYTORCH", "FrameworkVersion": "1.8"},
        },
        "WayOut": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "SecurityGroupEgress": [
                    {"IpProtocol": "tcp", "FromPort": port, "ToPort": port} for port in (443, 8443, 8883)
                ]
            },
        },
        "ServerRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": {
                    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}]
                },
                "Policies": [
                    {"PolicyDocument": {"Statement": [_allow(["lambda:InvokeFunction"], "arn:aws:lambda:::f")]}}
                ],
            },
        },
        "Server": {
            "Type": "AWS::EC2::Instance",
            "Properties": {
                "ImageId": {"Ref": "Image"},
                "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1},
                "NetworkInterfaces": [{"GroupSet": [{"Fn::GetAtt": ["WayOut", "GroupId"]}]}],
            },
        },
    }
