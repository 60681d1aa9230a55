"""Assemblies for plans: the sample fleet of the edge rules with a group of devices, a model and a server."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_handlers.device_list import DeviceList, write_devices
from edge_handlers.device_registry import Registry
from tests.edge_rules.sample_fleet import Fleet

RINGS = {"canary": "plant-canary", "all": "plant"}
DEVICES = {f"plant-press-{number}": "all" for number in range(120)}
MODEL_DIGEST = "d" * 64
Change = Callable[["PlannedFleet"], None]


class PlannedFleet(Fleet):
    """The sample fleet with what a plan looks at besides.

    Args:
        folder: Becomes the assembly.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.region, self.stage = "us-east-1", "plant"
        self.model = "weights" * 300
        self.properties("Group")["ThingGroupName"] = "plant"
        self.devices = dict(DEVICES)
        self.resources["Registry"] = {"Type": "Custom::DeviceRegistry", "Properties": {}}
        self.outputs: dict[str, Any] = {}
        #: Those of the model's own stack; without any, there is none.
        self.model_resources: dict[str, Any] = {
            "PackageCopy": {"Type": "Custom::ModelPackage", "Properties": {"Source": f"{MODEL_DIGEST}.zip"}},
            "PackageUri": {
                "Type": "AWS::SSM::Parameter",
                "Properties": {"Name": "/plant/model", "Value": {"Fn::GetAtt": ["PackageCopy", "Uri"]}},
            },
        }
        self.parameters["ModelUri"] = {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/plant/model"}
        self.resources["Model"] = {
            "Type": "AWS::GreengrassV2::ComponentVersion",
            "UpdateReplacePolicy": "Retain",
            "Properties": {"InlineRecipe": _model_recipe("1.0.1")},
        }
        self.deploy("plant.Model", "1.0.1")
        self.resources["Log"] = {"Type": "AWS::Logs::LogGroup", "Properties": {}}
        self.properties("Server").update(InstanceType="t3.small", BlockDeviceMappings=[{"Ebs": {"VolumeSize": 20}}])

    def deploy(self, component: str, version: str) -> None:
        """Tell the group to run a version."""
        self.properties("Deployment")["Components"][component] = {"ComponentVersion": version}

    def new_code(self) -> None:
        """Change the inference code, and with it the component's version."""
        self.code += "# faster\n"
        self.inference["ComponentVersion"] = "1.5.3"
        self.deploy("plant.Inference", "1.5.3")

    def new_model(self) -> None:
        """Change the model, and with it the component's version."""
        self.model += "more"
        self.properties("Model")["InlineRecipe"] = _model_recipe("1.0.2")
        self.deploy("plant.Model", "1.0.2")

    def write(self) -> Path:
        """Write the assembly and return its folder."""
        listed = write_devices(self.devices)
        list_sha256 = hashlib.sha256(listed).hexdigest()
        if "Registry" in self.resources:
            listing = DeviceList("cdk-assets", f"{list_sha256}.json", list_sha256)
            self.properties("Registry").update(Registry("plant", RINGS, "core", "devices", listing).to_properties())
        self.view()
        main = self.folder / "Plant.template.json"
        main.write_text(json.dumps({**json.loads(main.read_text()), "Outputs": self.outputs}))
        if self.model_resources:
            (self.folder / "Model.template.json").write_text(json.dumps({"Resources": self.model_resources}))
        (self.folder / "devices.json").write_bytes(listed)
        (self.folder / "model.zip").write_text(self.model)
        assets = self.folder / "Plant.assets.json"
        content = json.loads(assets.read_text())
        for digest, path in ((MODEL_DIGEST, "model.zip"), (list_sha256, "devices.json")):
            content["files"][digest] = {"source": {"path": path, "packaging": "file"}}
        assets.write_text(json.dumps(content))
        stacks = {path.name.removesuffix(".template.json") for path in self.folder.glob("*.template.json")}
        artifacts = {
            name: {
                "type": "aws:cloudformation:stack",
                "environment": f"aws://unknown-account/{self.region}",
                "properties": {"stackName": f"{self.stage}-{name.lower()}"},
            }
            for name in stacks
        }
        (self.folder / "manifest.json").write_text(json.dumps({"artifacts": artifacts}))
        return self.folder


def _model_recipe(version: str) -> Any:
    recipe = {"ComponentName": "plant.Model", "ComponentVersion": version, "Manifests": [{"Artifacts": [{"Uri": "@"}]}]}
    before, after = json.dumps(recipe).split("@")
    return {"Fn::Join": ["", [before, {"Ref": "ModelUri"}, after]]}


def remove_component(fleet: PlannedFleet) -> None:
    del fleet.properties("Deployment")["Components"]["plant.Model"]
    del fleet.resources["Model"]


def remove_model(fleet: PlannedFleet) -> None:
    remove_component(fleet)
    fleet.model_resources = {}


def other_region(fleet: PlannedFleet) -> None:
    fleet.region = "eu-west-1"


def other_stage(fleet: PlannedFleet) -> None:
    fleet.stage = "mill"


def move_to_canary(fleet: PlannedFleet) -> None:
    fleet.devices["plant-press-7"] = "canary"


def slower_rollout(fleet: PlannedFleet) -> None:
    job = fleet.properties("Deployment")["IotJobConfiguration"]
    job["JobExecutionsRolloutConfig"]["MaximumPerMinute"] = 10
    job["AbortConfig"]["CriteriaList"][0]["ThresholdPercentage"] = 5


def wider_rights(fleet: PlannedFleet) -> None:
    statements = fleet.properties("TokenExchange")["Policies"][0]["PolicyDocument"]["Statement"]
    statements[0]["Action"] = ["s3:GetObject", "s3:PutObject"]


def two_more_targets(fleet: PlannedFleet) -> None:
    for name in ("mill", "press"):
        group = {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": f"plant-{name}"}}
        deployment = json.loads(json.dumps(fleet.resources["Deployment"]))
        deployment["Properties"]["TargetArn"] = {"Fn::GetAtt": [f"{name}Group", "Arn"]}
        fleet.resources.update({f"{name}Group": group, f"{name}Deployment": deployment})
    fleet.new_code()


def larger_server_without_log(fleet: PlannedFleet) -> None:
    fleet.properties("Server").update(InstanceType="t3.medium", ImageId="other")
    del fleet.resources["Log"]


def same_version_other_code(fleet: PlannedFleet) -> None:
    fleet.inference["ComponentDescription"] = "not what devices have under this version"


CHANGES: dict[str, Change] = {
    "no-change": lambda fleet: None,
    "code-only": PlannedFleet.new_code,
    "model-only": PlannedFleet.new_model,
    "removal": remove_component,
    "rollout-change": slower_rollout,
    "security-change": wider_rights,
    "three-targets": two_more_targets,
    "replacement": larger_server_without_log,
    "reused-version": same_version_other_code,
    "list-emptied": lambda fleet: fleet.devices.clear(),
    "row-removed": lambda fleet: fleet.devices.__delitem__("plant-press-7"),
    "row-moved": move_to_canary,
    "region-changed": other_region,
    "stage-renamed": other_stage,
    "model-removed": remove_model,
}
