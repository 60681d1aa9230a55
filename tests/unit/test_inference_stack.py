"""Component versions and the deployment of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis import assembly, resources, template
from tools.cdk_cli import ROOT


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """Component name to its recipe, deploy-time values as `@`."""
    found = {}
    for component in resources(stage, "Inference", "AWS::GreengrassV2::ComponentVersion"):
        text = component["Properties"]["InlineRecipe"]
        parts = text["Fn::Join"][1] if isinstance(text, dict) else [text]
        recipe = json.loads("".join(part if isinstance(part, str) else "@" for part in parts))
        found[recipe["ComponentName"]] = recipe
    return found


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_deployment_pins_exactly_the_versions_of_its_stack(stage: str) -> None:
    for deployment in resources(stage, "Inference", "AWS::GreengrassV2::Deployment"):
        pinned = {name: each["ComponentVersion"] for name, each in deployment["Properties"]["Components"].items()}

        assert pinned == {name: recipe["ComponentVersion"] for name, recipe in recipes(stage).items()}
        handlers = {f"edgewright.{stage}.handler.DigitsV1"} if stage == "twin" else set()
        assert set(pinned) == handlers | {
            f"edgewright.{stage}.Runtime",
            f"edgewright.{stage}.model.Digits",
            f"edgewright.{stage}.model.Iris",
            f"edgewright.{stage}.model.ImageClassification",
            f"edgewright.{stage}.Inference",
        }


def test_each_ring_has_one_deployment() -> None:
    deployments = resources("prod", "Inference", "AWS::GreengrassV2::Deployment")
    names = [deployment["Properties"]["DeploymentName"] for deployment in deployments]

    assert sorted(names) == ["edgewright-prod", "edgewright-prod-canary", "edgewright-prod-early"]
    assert len({json.dumps(deployment["Properties"]["TargetArn"]) for deployment in deployments}) == 3


def test_sweep_covers_the_deployments_of_every_ring() -> None:
    (sweep,) = resources("prod", "Inference", "Custom::ComponentSweep")
    swept = json.dumps([sweep["Properties"]["ThingGroupArn"], *sweep["Properties"]["RingArns"]])

    for group in ("edgewright-prod", "edgewright-prod-canary", "edgewright-prod-early"):
        assert f':thinggroup/{group}"' in swept


def test_deployment_rolls_back_and_aborts() -> None:
    deployment, *_ = resources("prod", "Inference", "AWS::GreengrassV2::Deployment")
    properties = deployment["Properties"]

    assert properties["DeploymentPolicies"] == {
        "FailureHandlingPolicy": "ROLLBACK",
        "ComponentUpdatePolicy": {"Action": "NOTIFY_COMPONENTS", "TimeoutInSeconds": 60},
    }
    job = properties["IotJobConfiguration"]
    assert job["JobExecutionsRolloutConfig"] == {
        "MaximumPerMinute": 20,
        "ExponentialRate": {
            "BaseRatePerMinute": 5,
            "IncrementFactor": 2,
            "RateIncreaseCriteria": {"NumberOfSucceededThings": 10},
        },
    }
    assert {
        (each["ThresholdPercentage"], each["MinNumberOfExecutedThings"]) for each in job["AbortConfig"]["CriteriaList"]
    } == {(5, 20)}
    assert job["TimeoutConfig"] == {"InProgressTimeoutInMinutes": 120}
    assert {each["FailureType"] for each in job["AbortConfig"]["CriteriaList"]} == {"FAILED", "REJECTED", "TIMED_OUT"}


def test_replaced_versions_stay_for_offline_devices_and_go_with_the_stack() -> None:
    for component in resources("twin", "Inference", "AWS::GreengrassV2::ComponentVersion"):
        assert (component["UpdateReplacePolicy"], component["DeletionPolicy"]) == ("Retain", "Delete")


def test_sweep_is_the_last_to_be_deleted_and_versions_are_made_one_by_one() -> None:
    content = template("twin", "Inference")["Resources"]
    components = [name for name, each in content.items() if each["Type"] == "AWS::GreengrassV2::ComponentVersion"]
    (sweep,) = [name for name, each in content.items() if each["Type"] == "Custom::ComponentSweep"]

    def needed(name: str) -> set[str]:
        told = content[name].get("DependsOn", [])
        direct = {told} if isinstance(told, str) else set(told)
        return direct.union(*(needed(each) for each in direct))

    assert all(sweep in needed(name) for name in components)
    assert sorted(len(needed(name) & set(components)) for name in components) == [0, 1, 2, 3, 4, 5]


def test_inference_serves_each_model_on_exact_topics() -> None:
    recipe = recipes("twin")["edgewright.twin.Inference"]
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]

    assert set(configuration["models"]) == {"digits", "iris", "image-classification"}
    assert configuration["models"]["digits"] == {
        "component": "edgewright.twin.model.Digits",
        "requestTopic": "edgewright/twin/digits/request",
        "responseTopic": "edgewright/twin/digits/response",
        "topK": 3,
        "captureBelow": 0.6,
    }
    granted = configuration["accessControl"]["aws.greengrass.ipc.mqttproxy"].values()
    asked, told = (policy["resources"] for policy in granted)
    assert asked == [f"edgewright/twin/{model}/request" for model in configuration["models"]]
    assert sorted(told) == sorted(
        [
            *(f"edgewright/twin/{model}/response" for model in configuration["models"]),
            "gg/sageMakerEdgeManager/image-classification",
            "edgewright/twin/heartbeat",
        ]
    )


def test_inference_is_configured_as_a_models_folder_says() -> None:
    recipe = recipes("twin")["edgewright.twin.Inference"]  # the stage changes the interval
    served = recipe["ComponentConfiguration"]["DefaultConfiguration"]["models"]["image-classification"]

    assert (served["topK"], served["threshold"], served["InferenceInterval"]) == (5, 0.3, 5)
    assert served["PublishResultsOnTopic"] == "gg/sageMakerEdgeManager/image-classification"


def test_inference_depends_softly_on_what_it_uses() -> None:
    dependencies = recipes("twin")["edgewright.twin.Inference"]["ComponentDependencies"]

    assert {each["DependencyType"] for each in dependencies.values()} == {"SOFT"}
    assert dependencies.pop("aws.greengrass.TokenExchangeService")["VersionRequirement"] == ">=2.0.0 <3.0.0"
    assert set(dependencies) == {
        "edgewright.twin.Runtime",
        *(f"edgewright.twin.model.{name}" for name in ("Digits", "Iris", "ImageClassification")),
    }
    assert {each["VersionRequirement"] for each in dependencies.values()} == {">=1.0.0 <2.0.0"}


def test_models_uri_comes_from_the_parameter_of_its_stack() -> None:
    parameters = template("twin", "Inference")["Parameters"].values()

    assert "/edgewright/twin/models/digits/package-uri" in [each.get("Default") for each in parameters]
    assert recipes("twin")["edgewright.twin.model.Digits"]["Manifests"][0]["Artifacts"] == [
        {"Uri": "@", "Unarchive": "ZIP"}
    ]


def test_artifacts_lie_in_the_assembly_under_their_digest() -> None:
    copies = resources("twin", "Inference", "Custom::ArtifactCopy")
    files = json.loads((assembly("twin") / "Inference.assets.json").read_text())["files"]

    assert {copy["Properties"]["DestinationKey"].rsplit("/", 1)[-1] for copy in copies} == {
        "runtime.zip",
        "inference.zip",
        "handler.zip",
        "dependencies.zip",
    }
    for copy in copies:
        sha256 = copy["Properties"]["Sha256"]
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)
        assert (assembly("twin") / files[sha256]["source"]["path"]).is_file()


def test_stacks_are_destroyed_from_the_deployment_to_the_storage() -> None:
    manifest = json.loads((assembly("twin") / "manifest.json").read_text())["artifacts"]
    needs = {name: set(each.get("dependencies", [])) for name, each in manifest.items()}

    assert {"EdgeServer", "Fleet", "ModelDigits", "Storage"} <= needs["Inference"]
    assert {"Fleet", "Identity", "Storage"} <= needs["EdgeServer"]
    assert {"Identity"} <= needs["Fleet"]
    assert {"Storage"} <= needs["Identity"]
    assert not needs["ModelDigits"] & {"EdgeServer", "Fleet"}


def lab(folder: Path, text: str) -> list[dict[str, Any]]:
    """The resources of the inference stack of a stage like the twin's, with a text added to its file."""
    from config.loader import load_stage
    from edge_constructs.feature_flags import read_context
    from edge_constructs.policy_gate import new_app
    from stacks.edgewright import define_stacks

    folder.mkdir()
    (folder / "lab.toml").write_text(text)
    app = new_app(read_context(), outdir=folder / "out")
    define_stacks(app, load_stage("lab", folder))
    app.synth()
    return list(json.loads((folder / "out" / "Inference.template.json").read_text())["Resources"].values())


def test_a_ring_may_have_a_configuration_of_its_own(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()
    merged = {
        each["Properties"]["DeploymentName"]: each["Properties"]["Components"]["edgewright.lab.Inference"]
        for each in lab(tmp_path / "a", f"{text}\n[configuration.canary.inference.models.digits]\ntopK = 1\n")
        if each["Type"] == "AWS::GreengrassV2::Deployment"
    }

    configuration = {name: _merge(each) for name, each in merged.items()}
    assert configuration["edgewright-lab-canary"] == {"models": {"digits": {"topK": 1}}, "signingKey": "@"}
    assert configuration["edgewright-lab-early"] == configuration["edgewright-lab"] == {"signingKey": "@"}


def test_a_raised_revision_gives_every_component_another_version(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()

    def versions(folder: str, text: str) -> dict[str, str]:
        deployment = next(
            each for each in lab(tmp_path / folder, text) if each["Type"] == "AWS::GreengrassV2::Deployment"
        )
        components = deployment["Properties"]["Components"]
        return {name: each["ComponentVersion"] for name, each in components.items()}

    first, again, raised = versions("a", text), versions("b", text), versions("c", f"revision = 1\n{text}")

    assert first == again
    assert set(first) == set(raised)
    assert not set(first.values()) & set(raised.values())


def _merge(component: dict[str, Any]) -> Any:
    """The configuration merged into a component, deploy-time values as `@`."""
    parts = component["ConfigurationUpdate"]["Merge"]["Fn::Join"][1]
    return json.loads("".join(part if isinstance(part, str) else "@" for part in parts))


def test_the_agent_is_where_the_stage_asks_for_it() -> None:
    def agent(stage: str) -> object:
        recipe = recipes(stage)[f"edgewright.{stage}.Inference"]
        return recipe["ComponentConfiguration"]["DefaultConfiguration"]["agent"]

    assert agent("twin") == {"enabled": True, "socket": "agent.sock"}
    assert agent("prod") == {"enabled": False, "socket": "agent.sock"}


def test_a_handler_takes_and_publishes_exactly_its_topics() -> None:
    recipe = recipes("twin")["edgewright.twin.handler.DigitsV1"]
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    (policy,) = resources("twin", "Identity", "AWS::IoT::Policy")

    topics = {
        "aws.greengrass#SubscribeToIoTCore": ["edgewright/twin/digits-v1/request"],
        "aws.greengrass#PublishToIoTCore": ["edgewright/twin/digits-v1/response"],
    }
    granted = configuration["accessControl"]["aws.greengrass.ipc.mqttproxy"].values()
    assert {each["operations"][0]: each["resources"] for each in granted} == topics
    assert [configuration["subscribe"], configuration["publish"]] == list(topics.values())
    assert "topic/edgewright/twin/digits-v1/response" in json.dumps(policy)
    assert "topicfilter/edgewright/twin/digits-v1/request" in json.dumps(policy)
    assert len(recipe["Manifests"][0]["Artifacts"]) == 2
