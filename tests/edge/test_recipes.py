import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.routes import Handler, HandlerTopics
from edge_constructs.component_library import fill_recipe, local_access
from edge_constructs.handler_component import recipe_values
from tests.edge.model_folder import ROOT
from tests.edge.recipe_rules import violations

ASSETS = ROOT / "edge_assets"
REQUESTS, RESPONSES = "edgewright/prod/digits/request", "edgewright/prod/digits/response"
HEARTBEAT = "edgewright/prod/heartbeat"
COMMON = {"VERSION": "1.999999.999999", "NUCLEUS": "*"}
ARTIFACT = "s3://edgewright-artifacts-0123456789/artifacts/" + "0" * 64
RANGE = {"VersionRequirement": ">=1.0.0 <2.0.0", "DependencyType": "SOFT"}
HANDLER = Handler(
    name="digits-v1",
    folder="digits",
    handler="gg_ml_predict.function_handler",
    environment={"RESULT_TOPIC": RESPONSES},
)
TOPICS = HandlerTopics((REQUESTS,), (RESPONSES,), ("local/in",), ("local/out",))
FILLINGS: dict[str, dict[str, Any]] = {
    "runtime": {"COMPONENT": "edgewright.prod.Runtime", "ARTIFACT_URI": f"{ARTIFACT}/runtime.zip"},
    "models": {
        "COMPONENT": "edgewright.prod.model.Digits",
        "ARTIFACT_URI": f"{ARTIFACT}/Digits.zip",
        "PACKAGE": "Digits",
        "MODEL": "digits",
    },
    "inference": {
        "COMPONENT": "edgewright.prod.Inference",
        "ARTIFACT_URI": f"{ARTIFACT}/inference.zip",
        "RUNTIME": "edgewright.prod.Runtime",
        "AGENT": {"enabled": True, "socket": "agent.sock"},
        "DEPENDENCIES": {"edgewright.prod.Runtime": RANGE, "edgewright.prod.model.Digits": RANGE},
        "EACH_MODEL": {
            "component": "edgewright.prod.model.{Model}",
            "requestTopic": REQUESTS.replace("digits", "{model}"),
            "responseTopic": RESPONSES.replace("digits", "{model}"),
        },
        "MODELS": {"digits": {}},
        "HEARTBEAT_TOPIC": HEARTBEAT,
        "CAPTURE_BUCKET": "edgewright-prod-artifacts-0123456789-eu-central-1",
        "REQUEST_TOPICS": [REQUESTS],
        "RESPONSE_TOPICS": [RESPONSES, HEARTBEAT],
        "LOCAL_ACCESS": local_access("edgewright.prod.Inference", subscribe=[REQUESTS], publish=[RESPONSES]),
    },
    "handlers": {
        **recipe_values("edgewright.prod.handler.DigitsV1", HANDLER, TOPICS, "edgewright.prod.Runtime"),
        "ARTIFACT_URI": f"{ARTIFACT}/handler.zip",
        "DEPENDENCIES_URI": f"{ARTIFACT}/dependencies.zip",
    },
}


def filled(kind: str) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(fill_recipe(ASSETS / kind / "recipe.json", {**COMMON, **FILLINGS[kind]}))
    return recipe


@pytest.mark.parametrize("kind", FILLINGS)
def test_every_recipe_is_portable(kind: str) -> None:
    assert violations(filled(kind)) == []


def test_the_inference_component_may_use_exactly_its_topics() -> None:
    configuration = filled("inference")["ComponentConfiguration"]["DefaultConfiguration"]

    policies = configuration["accessControl"]["aws.greengrass.ipc.mqttproxy"].values()

    assert {tuple(policy["operations"]): policy["resources"] for policy in policies} == {
        ("aws.greengrass#SubscribeToIoTCore",): [REQUESTS],
        ("aws.greengrass#PublishToIoTCore",): [RESPONSES, HEARTBEAT],
    }


def _manifest(change: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe["Manifests"][0].update(change)


def _script(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda recipe: recipe["Manifests"][0]["Lifecycle"]["run"].update({"Script": text})


BROKEN: dict[str, Callable[[dict[str, Any]], None]] = {
    "Platform has os": _manifest({"Platform": {"os": "linux"}}),
    "architecture is a plain name": _manifest({"Platform": {"os": "linux", "runtime": "*", "architecture": "arm64"}}),
    "a list of Artifacts": lambda recipe: recipe["Manifests"][0].pop("Artifacts"),
    "no variable of another component": _script("cat {edgewright.prod.Runtime:work:path}/x {other:work:path}/x"),
    "no shutdown step": lambda recipe: recipe["Manifests"][0]["Lifecycle"].update({"shutdown": "true"}),
    "no recover step": lambda recipe: recipe["Manifests"][0]["Lifecycle"].update({"recover": "true"}),
    "no Skipif": lambda recipe: recipe["Manifests"][0]["Lifecycle"]["run"].update({"Skipif": "onpath sh"}),
    "cuts the script off": _script("echo ${HOME}"),
    "has a run step": lambda recipe: recipe["Manifests"][0]["Lifecycle"].pop("run"),
    "setenv A is a string": lambda recipe: recipe["Manifests"][0]["Lifecycle"].update({"setenv": {"A": "a b"}}),
    "has at most 1024 bytes": lambda recipe: recipe["ComponentConfiguration"]["DefaultConfiguration"].update(
        {"a": {"b": "x" * 1024}}
    ),
    "a recipe has at most 8192 bytes": lambda recipe: recipe.update({"ComponentDescription": "x" * 8192}),
    "a version range": lambda recipe: recipe["ComponentDependencies"].update(
        {"x": {"VersionRequirement": "^1.0.0", "DependencyType": "SOFT"}}
    ),
    "is SOFT": lambda recipe: recipe["ComponentDependencies"].update({"x": {**RANGE, "DependencyType": "HARD"}}),
    "followed by the name of a zip": _script("sh {artifacts:decompressedPath}/run.sh"),
    "none of the unarchived artifacts": _script("sh {artifacts:decompressedPath}/other/run.sh"),
    "a path variable is followed by": _script("ls {work:path}x"),
    "topics in accessControl are exact": lambda recipe: recipe["ComponentConfiguration"]["DefaultConfiguration"][
        "accessControl"
    ].update({"aws.greengrass.ipc.pubsub": {"p": {"operations": ["*"], "resources": ["a/+"]}}}),
    "scripts are for /bin/sh": _script("bash x.sh"),
    "a recipe has manifests": lambda recipe: recipe.update({"Manifests": []}),
}


@pytest.mark.parametrize("expected", BROKEN)
def test_the_lint_finds(expected: str) -> None:
    recipe = copy.deepcopy(filled("inference"))

    BROKEN[expected](recipe)

    assert any(expected in found for found in violations(recipe)), violations(recipe)


def test_no_script_of_a_component_is_missing_from_its_recipe() -> None:
    for kind, folder, script in (
        ("runtime", "runtime", "install.sh"),
        ("inference", "inference", "../run.sh"),
        ("handlers", "handler", "../run.sh"),
    ):
        assert Path(ASSETS / kind / script).is_file()
        assert f"/{folder}/{Path(script).name}" in json.dumps(filled(kind))
