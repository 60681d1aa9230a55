"""Assemblies for plans: the sample fleet of the edge rules with a group of devices, a model and a server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.edge_rules.sample_fleet import Fleet

DEVICES = [f"plant-press-{number}" for number in range(120)]
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
        self.model = "weights" * 300
        self.properties("Group")["ThingGroupName"] = "plant"
        registry = {"ThingGroupName": "plant", "Devices": DEVICES}
        self.resources["Registry"] = {"Type": "Custom::DeviceRegistry", "Properties": registry}
        self.resources["PackageCopy"] = {
            "Type": "Custom::ModelPackage",
            "Properties": {"Source": f"{MODEL_DIGEST}.zip"},
        }
        self.resources["PackageUri"] = {
            "Type": "AWS::SSM::Parameter",
            "Properties": {"Name": "/plant/model", "Value": {"Fn::GetAtt": ["PackageCopy", "Uri"]}},
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
        self.view()
        (self.folder / "model.zip").write_text(self.model)
        manifest = self.folder / "Plant.assets.json"
        content = json.loads(manifest.read_text())
        content["files"][MODEL_DIGEST] = {"source": {"path": "model.zip", "packaging": "file"}}
        manifest.write_text(json.dumps(content))
        return self.folder


def _model_recipe(version: str) -> Any:
    recipe = {"ComponentName": "plant.Model", "ComponentVersion": version, "Manifests": [{"Artifacts": [{"Uri": "@"}]}]}
    before, after = json.dumps(recipe).split("@")
    return {"Fn::Join": ["", [before, {"Ref": "ModelUri"}, after]]}


def remove_component(fleet: PlannedFleet) -> None:
    del fleet.properties("Deployment")["Components"]["plant.Model"]
    del fleet.resources["Model"]


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
}
