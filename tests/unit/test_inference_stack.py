"""Component versions and the deployment of them."""

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from aws_cdk import Stack
from pydantic import ValidationError

from config.loader import load_stage, read_context
from config.model import Model, local_result_topics, result_topics, serving
from config.names import Names
from config.places import PROJECT as ROOT
from edge_constructs.artifact_store import ArtifactBucket, EncryptionKey
from edge_constructs.component_library import ComponentLibrary
from edge_constructs.fleet_deployment import merged_settings
from edge_constructs.synth import new_app
from tests.synthesis import assembly, resources, template

RULE = "AWS::IoT::TopicRule"
MODELS = ["digits", "iris", "image-classification", "digit-detector"]


def recipes(stage: str) -> dict[str, dict[str, Any]]:
    """Component name to its recipe, deploy-time values as `@`."""
    found = {}
    for component in resources(stage, "Inference", "Custom::ComponentVersion"):
        text = component["Properties"]["InlineRecipe"]
        parts = text["Fn::Join"][1] if isinstance(text, dict) else [text]
        recipe = json.loads("".join(part if isinstance(part, str) else "@" for part in parts))
        found[recipe["ComponentName"]] = recipe
    return found


def configured(stage: str, component: str) -> dict[str, Any]:
    """What a component reads on the devices of the ring `all`, deploy-time values as `@`."""
    name = f"edgewright.{stage}.{component}"
    (deployment,) = [
        each["Properties"]["Components"]
        for each in resources(stage, "Inference", "AWS::GreengrassV2::Deployment")
        if each["Properties"]["DeploymentName"].partition(" ")[0] == f"edgewright-{stage}"
    ]
    defaults = recipes(stage)[name]["ComponentConfiguration"]["DefaultConfiguration"]
    return merged_settings(defaults, _settings(deployment)[name])


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_deployment_pins_exactly_the_versions_of_its_stack(stage: str) -> None:
    for deployment in resources(stage, "Inference", "AWS::GreengrassV2::Deployment"):
        pinned = {name: each["ComponentVersion"] for name, each in deployment["Properties"]["Components"].items()}

        assert pinned == {name: recipe["ComponentVersion"] for name, recipe in recipes(stage).items()}
        models = {Names(stage).model_component(model.folder) for model in load_stage(stage).models}
        assert {f"edgewright.{stage}.model.{name}" for name in ("Digits", "Iris", "ImageClassification")} <= models
        assert set(pinned) == models | {
            f"edgewright.{stage}.Runtime",
            f"edgewright.{stage}.Inference",
            *({f"edgewright.{stage}.handler.DigitsV1"} if stage == "twin" else ()),
        }


def test_each_ring_has_one_deployment() -> None:
    deployments = resources("prod", "Inference", "AWS::GreengrassV2::Deployment")
    names = [deployment["Properties"]["DeploymentName"].partition(" ")[0] for deployment in deployments]

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


def test_versions_carry_the_stages_tag_and_their_own_arn() -> None:
    for component in resources("twin", "Inference", "Custom::ComponentVersion"):
        assert component["Properties"]["Tags"] == {"edgewright:stage": "twin"}
        arn = component["Properties"]["ComponentVersionArn"]["Fn::Join"][1]
        assert re.fullmatch(r":components:edgewright\.twin\.[\w.]+:versions:1\.\d+\.\d+", arn[-1])


def test_a_component_of_another_name_is_refused_because_the_sweep_would_leave_it() -> None:
    stack = Stack(new_app(read_context()), "Stack")
    key = EncryptionKey(stack, "Key", retain=False)
    library = ComponentLibrary(
        stack,
        "Library",
        components="edgewright.lab.",
        rings={"all": "edgewright-lab"},
        bucket=ArtifactBucket(stack, "Bucket", name="artifacts", log_name="logs", key=key, retain=False),
        tags={},
    )

    with pytest.raises(ValueError, match=r"must start with edgewright\.lab\., got edgewright\.dev\.Runtime"):
        library.version(stack, "Version", name="edgewright.dev.Runtime", version="1.0.0", recipe="{}")


def test_who_makes_versions_may_read_their_artifacts() -> None:
    roles = [role for role in resources("twin", "Inference", "AWS::IAM::Role") if "CreateComponentVersion" in str(role)]
    (role,) = roles
    statements = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]

    reading = [each for each in statements if each["Action"] == ["s3:GetObject"] or each["Action"] == "s3:GetObject"]
    assert len(reading) == 1
    assert "/artifacts/*" in json.dumps(reading)
    assert "/models/*" in json.dumps(reading)
    assert any(each["Action"] in ("kms:Decrypt", ["kms:Decrypt"]) for each in statements)


def test_sweep_is_the_last_to_be_deleted_and_versions_are_made_one_by_one() -> None:
    content = template("twin", "Inference")["Resources"]
    components = [name for name, each in content.items() if each["Type"] == "Custom::ComponentVersion"]
    (sweep,) = [name for name, each in content.items() if each["Type"] == "Custom::ComponentSweep"]

    def needed(name: str) -> set[str]:
        told = content[name].get("DependsOn", [])
        direct = {told} if isinstance(told, str) else set(told)
        return direct.union(*(needed(each) for each in direct))

    assert all(sweep in needed(name) for name in components)
    assert sorted(len(needed(name) & set(components)) for name in components) == list(range(len(components)))


def test_inference_serves_each_model_on_exact_topics() -> None:
    recipe = recipes("twin")["edgewright.twin.Inference"]
    configuration = recipe["ComponentConfiguration"]["DefaultConfiguration"]

    assert list(configuration["models"]) == MODELS
    assert configuration["models"]["digits"] == {}
    assert configuration["eachModel"] == {
        "component": "edgewright.twin.model.{Model}",
        "requestTopic": "edgewright/twin/{model}/request",
        "responseTopic": "edgewright/twin/{model}/response",
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


def test_inference_may_use_exactly_the_local_topics_of_its_models() -> None:
    access = recipes("twin")["edgewright.twin.Inference"]["ComponentConfiguration"]["DefaultConfiguration"][
        "accessControl"
    ]["aws.greengrass.ipc.pubsub"]
    assert access == {
        "edgewright.twin.Inference:SubscribeToTopic": {
            "operations": ["aws.greengrass#SubscribeToTopic"],
            "resources": [f"edgewright/twin/{model}/request" for model in MODELS],
        },
        "edgewright.twin.Inference:PublishToTopic": {
            "operations": ["aws.greengrass#PublishToTopic"],
            "resources": [f"edgewright/twin/{model}/response" for model in MODELS],
        },
    }


FILES: dict[str, str | int | float] = {"PublishResultsOnTopic": "files/{stage}"}
ANSWERS, HEARTBEAT = "edgewright/lab/a/response", "edgewright/lab/heartbeat"


@pytest.mark.parametrize(
    ("local", "results", "cloud", "device"),
    [
        (True, "cloud", [ANSWERS, "files/lab", HEARTBEAT], [ANSWERS]),
        (True, "local", [ANSWERS, HEARTBEAT], [ANSWERS, "files/lab"]),
        (True, "both", [ANSWERS, "files/lab", HEARTBEAT], [ANSWERS, "files/lab"]),
        (False, "cloud", [ANSWERS, "files/lab", HEARTBEAT], []),
        (False, "local", [ANSWERS, HEARTBEAT], [ANSWERS, "files/lab"]),
        (False, "both", [ANSWERS, "files/lab", HEARTBEAT], [ANSWERS, "files/lab"]),
    ],
)
def test_a_model_publishes_on_either_side_what_its_switches_say(
    local: bool, results: Literal["cloud", "local", "both"], cloud: list[str], device: list[str]
) -> None:
    models = [Model(folder="a", local=local, results=results, serving=FILES)]

    assert result_topics(Names("lab"), models) == cloud
    assert local_result_topics(Names("lab"), models) == device
    served = serving(models[0], Names("lab"))
    assert (served.get("local", True), served.get("results", "cloud")) == (local, results)


def test_what_the_device_allows_is_no_matter_of_serving() -> None:
    with pytest.raises(ValidationError, match=r"serving\.results must be written without serving, beside folder"):
        Model(folder="a", serving={"results": "local"})


def test_inference_is_configured_as_a_models_folder_says() -> None:
    served = configured("twin", "Inference")["models"]["image-classification"]  # the stage changes the interval

    assert (served["topK"], served["threshold"], served["InferenceInterval"]) == (5, 0.3, 5)
    assert served["PublishResultsOnTopic"] == "gg/sageMakerEdgeManager/image-classification"


def test_inference_depends_softly_on_what_it_uses() -> None:
    dependencies = recipes("twin")["edgewright.twin.Inference"]["ComponentDependencies"]

    assert {each["DependencyType"] for each in dependencies.values()} == {"SOFT"}
    assert dependencies.pop("aws.greengrass.TokenExchangeService")["VersionRequirement"] == ">=2.0.0 <3.0.0"
    assert set(dependencies) == {"edgewright.twin.Runtime"}
    assert {each["VersionRequirement"] for each in dependencies.values()} == {">=1.0.0 <2.0.0"}


def test_a_models_package_lies_where_its_content_says_and_nothing_of_its_stack_is_referred_to() -> None:
    packages = {each["Properties"]["Name"]: each for each in resources("twin", "Models", "Custom::ModelPackage")}
    (artifact,) = recipes("twin")["edgewright.twin.model.Digits"]["Manifests"][0]["Artifacts"]

    content = packages["Digits"]["Properties"]["ContentSha256"]
    assert artifact["Uri"].endswith(f"/models/digits/{content}/Digits.zip")
    assert "Models" not in json.dumps(template("twin", "Inference")["Resources"])


def test_artifacts_lie_in_the_assembly_under_their_digest() -> None:
    copies = [copy for stack in ("Fleet", "Inference") for copy in resources("twin", stack, "Custom::ArtifactCopy")]
    files = {
        sha256: file
        for stack in ("Fleet", "Inference")
        for sha256, file in json.loads((assembly("twin") / f"{stack}.assets.json").read_text())["files"].items()
    }

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


def test_the_runtime_is_fetched_from_where_the_fleets_stack_puts_it() -> None:
    (copy,) = resources("twin", "Fleet", "Custom::ArtifactCopy")
    (artifact,) = recipes("twin")["edgewright.twin.Runtime"]["Manifests"][0]["Artifacts"]

    assert artifact["Uri"].endswith(f"/{copy['Properties']['DestinationKey']}")
    assert copy["Properties"]["Sha256"] in artifact["Uri"]


def test_stacks_are_destroyed_from_the_deployment_to_the_storage() -> None:
    manifest = json.loads((assembly("twin") / "manifest.json").read_text())["artifacts"]
    needs = {name: set(each.get("dependencies", [])) for name, each in manifest.items()}

    assert {"EdgeServer", "Fleet", "Models", "Storage"} <= needs["Inference"]
    assert {"Fleet", "Identity", "Storage"} <= needs["EdgeServer"]
    assert {"Identity"} <= needs["Fleet"]
    assert {"Storage"} <= needs["Identity"]
    assert not needs["Models"] & {"EdgeServer", "Fleet"}


def lab(folder: Path, text: str) -> list[dict[str, Any]]:
    """The resources of the inference stack of a stage like the twin's, with a text added to its file."""
    from config.loader import load_stage, read_context
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
        each["Properties"]["DeploymentName"].partition(" ")[0]: _settings(each["Properties"]["Components"])
        for each in lab(tmp_path / "a", f"{text}\n[configuration.canary.inference.models.digits]\ntopK = 1\n")
        if each["Type"] == "AWS::GreengrassV2::Deployment"
    }

    assert merged["edgewright-lab-early"] == merged["edgewright-lab"]
    assert merged["edgewright-lab-early"]["revision"] != merged["edgewright-lab-canary"]["revision"]
    canary, early = (merged[f"edgewright-lab-{ring}"]["edgewright.lab.Inference"] for ring in ("canary", "early"))
    assert [ring["models"]["digits"]["topK"] for ring in (canary, early)] == [1, 3]
    canary["models"]["digits"] = early["models"]["digits"]
    assert canary == early
    assert early["signingKey"] == "@"


def test_a_changed_configuration_changes_what_is_merged_and_no_version(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()
    changed = (
        text.replace("InferenceInterval = 5", "InferenceInterval = 7")
        .replace("timeout_s = 10\n", "timeout_s = 11\n")
        .replace("enabled = true\n", 'enabled = true\nsocket = "other.sock"\n')
    )

    def found(folder: str, text: str) -> tuple[set[str], dict[str, Any]]:
        made = lab(tmp_path / folder, text)
        recipes = [each["Properties"]["InlineRecipe"] for each in made if each["Type"] == "Custom::ComponentVersion"]
        versions = {json.dumps(recipe) for recipe in recipes}
        (deployment,) = [
            each["Properties"]
            for each in made
            if each["Type"] == "AWS::GreengrassV2::Deployment"
            and each["Properties"]["DeploymentName"].startswith("edgewright-lab ")
        ]
        return versions, deployment["Components"]

    (before, first), (after, second) = found("a", text), found("b", changed)

    assert before == after
    old, new = _settings(first), _settings(second)
    inference, handler = (f"edgewright.lab.{name}" for name in ("Inference", "handler.DigitsV1"))
    assert old[inference]["models"]["image-classification"]["InferenceInterval"] == 5
    assert new[inference]["models"]["image-classification"]["InferenceInterval"] == 7
    assert new[inference]["agent"] == {"socket": "other.sock"}
    assert (old[handler]["timeoutSeconds"], new[handler]["timeoutSeconds"]) == (10, 11)
    assert old["revision"] != new["revision"]


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_only_a_component_that_nobody_waits_for_is_configured_by_deployments(stage: str) -> None:
    for deployment in resources(stage, "Inference", "AWS::GreengrassV2::Deployment"):
        components = deployment["Properties"]["Components"]
        updates = {name: each["ConfigurationUpdate"] for name, each in components.items() if len(each) > 1}

        assert list(updates) == [f"edgewright.{stage}.Runtime"]
        assert updates[f"edgewright.{stage}.Runtime"]["Reset"] == ["/settings"]
        # A component that reads while they are replaced finds no revision.
        assert list(_settings(components))[-1] == "revision"


def test_the_revision_of_settings_does_not_follow_from_what_only_the_deploy_knows(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()

    def revision(folder: str, text: str) -> str:
        deployment = next(
            each for each in lab(tmp_path / folder, text) if each["Type"] == "AWS::GreengrassV2::Deployment"
        )
        return str(_settings(deployment["Properties"]["Components"])["revision"])

    # Another order of the same app gives the tokens other numbers.
    assert revision("a", text) == revision("b", text.replace("flow_logs = false", "flow_logs = true"))


def test_no_two_stages_publish_or_listen_on_the_same_topic() -> None:
    topics = {}
    for stage in ("dev", "prod", "twin"):
        access = recipes(stage)[f"edgewright.{stage}.Inference"]["ComponentConfiguration"]["DefaultConfiguration"]
        policies = access["accessControl"]["aws.greengrass.ipc.mqttproxy"].values()
        topics[stage] = {topic for policy in policies for topic in policy["resources"]}

    assert not topics["dev"] & topics["prod"]
    assert not topics["twin"] & (topics["dev"] | topics["prod"])
    assert "gg/sageMakerEdgeManager/image-classification/dev" in topics["dev"]
    # The twin, alone in its account, has the topic of Edge Manager's samples, as a stage may have it.
    assert "gg/sageMakerEdgeManager/image-classification" in topics["twin"]


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_each_rule_and_each_policy_knows_the_stages_own_topic_of_files(stage: str) -> None:
    topic = configured(stage, "Inference")["models"]["image-classification"]["PublishResultsOnTopic"]

    rules = [each["Properties"]["TopicRulePayload"]["Sql"] for each in resources(stage, "Observability", RULE)]
    assert [rule for rule in rules if rule.endswith(f" FROM '{topic}'")]
    (policy,) = resources(stage, "Identity", "AWS::IoT::Policy")
    assert f':topic/{topic}"' in json.dumps(policy)


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


def _settings(components: dict[str, Any]) -> Any:
    """What a deployment sends: component to settings, with their revision, deploy-time values as `@`."""
    (carrier,) = [name for name in components if name.endswith(".Runtime")]
    merge = components[carrier]["ConfigurationUpdate"]["Merge"]
    parts = merge["Fn::Join"][1] if isinstance(merge, dict) else [merge]
    return json.loads("".join(part if isinstance(part, str) else "@" for part in parts))["settings"]


def test_the_agent_is_where_the_stage_asks_for_it() -> None:
    def agent(stage: str) -> object:
        return configured(stage, "Inference")["agent"]

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
    assert "topic/edgewright/twin/*/response" in json.dumps(policy)
    assert "topicfilter/edgewright/twin/*/request" in json.dumps(policy)
    assert len(recipe["Manifests"][0]["Artifacts"]) == 2


def test_a_route_on_the_device_is_in_the_recipe_and_not_in_the_iot_policy(tmp_path: Path) -> None:
    text = (ROOT / "config" / "twin.toml").read_text()
    routes = (
        '[[routes]]\nsource = "digits-v1"\ntarget = "iris"\n[[routes]]\nsource = "iris"\ntarget = "digits-v1"\n'
        '[[routes]]\nsource = "devices"\ntopic = "site/measured"\ntarget = "digits-v1"\n'
    )

    made = lab(tmp_path / "a", f"{text}\n{routes}")

    (recipe,) = [
        json.dumps(each["Properties"]["InlineRecipe"])
        for each in made
        if each["Type"] == "Custom::ComponentVersion" and "handler.DigitsV1" in json.dumps(each["Properties"])
    ]
    policy = json.dumps(json.loads((tmp_path / "a" / "out" / "Identity.template.json").read_text()))
    local = ["edgewright/lab/iris/response", "site/measured", "edgewright/lab/iris/request"]
    assert all(topic in recipe for topic in local)
    assert recipe.count("aws.greengrass#PublishToTopic") == recipe.count("aws.greengrass#SubscribeToTopic") == 1
    assert "site/measured" not in policy
    assert policy.count("topic/edgewright/twin/digits-v1/response") == 1
