"""A component version is made once, taken over when its content comes back, and never taken away here."""

import json
from typing import Any

import pytest

from edge_handlers.component_library import DIGEST_TAG, ComponentVersionError, on_event
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass

ROOT = "arn:aws:greengrass:eu-west-1:111122223333:components:edgewright.dev.Inference:versions"
FIRST = event.create("component_version")["ResourceProperties"]
RECIPE: dict[str, Any] = json.loads(FIRST["InlineRecipe"])
ARN = f"{ROOT}:1.2.3"


def properties(version: str, **changes: Any) -> dict[str, Any]:
    recipe = {**RECIPE, "ComponentVersion": version, **changes}
    return {"ComponentVersionArn": f"{ROOT}:{version}", "InlineRecipe": json.dumps(recipe)}


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return on_event(request, Context(seconds))


def make_by_hand(greengrass: FakeGreengrass, recipe: dict[str, Any]) -> None:
    """A version with the same name, without the tag."""
    greengrass.create_component_version(json.dumps(recipe).encode(), {"owner": "somebody"})
    greengrass.calls.clear()


def test_create_makes_the_version_tagged_with_the_stage(greengrass: FakeGreengrass) -> None:
    answer = run(event.create("component_version"))

    assert answer == {"PhysicalResourceId": ARN, "Data": {"Arn": ARN, "WasThere": "false"}}
    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3"]}
    (made,) = greengrass.called("create_component_version")
    assert json.loads(made["inlineRecipe"]) == RECIPE
    assert made["tags"]["edgewright:stage"] == "dev"
    assert len(made["tags"][DIGEST_TAG]) == 64


def test_create_waits_until_it_can_be_deployed(greengrass: FakeGreengrass, pauses: list[float]) -> None:
    greengrass.states = ["REQUESTED", "INITIATED", "DEPLOYABLE"]

    run(event.create("component_version"))

    assert pauses == [1.0, 1.0]


def test_the_same_event_twice_takes_over_what_the_first_one_made(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))

    answer = run(event.create("component_version"))

    assert answer == {"PhysicalResourceId": ARN, "Data": {"Arn": ARN, "WasThere": "true"}}
    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3"]}


def test_an_update_makes_the_new_version_and_the_delete_of_the_old_one_keeps_it(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))

    answer = run(event.update("component_version", ARN, **properties("1.2.4")))
    run(event.delete("component_version", ARN))

    assert answer["PhysicalResourceId"] == f"{ROOT}:1.2.4"
    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3", "1.2.4"]}
    assert not greengrass.called("delete_component")


def test_a_revert_gets_the_version_from_before_without_making_one(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))
    run(event.update("component_version", ARN, **properties("1.2.4")))

    answer = run(event.update("component_version", f"{ROOT}:1.2.4", old=properties("1.2.4")))

    assert answer == {"PhysicalResourceId": ARN, "Data": {"Arn": ARN, "WasThere": "true"}}
    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3", "1.2.4"]}
    assert not greengrass.called("delete_component")


def test_a_rollback_of_the_stack_gets_the_version_from_before(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))
    greengrass.refuse("create_component_version", "ValidationException")
    with pytest.raises(AwsCallError):
        run(event.update("component_version", ARN, **properties("1.2.4")))

    answer = run(event.update("component_version", ARN, old=properties("1.2.4")))
    run(event.delete("component_version", f"{ROOT}:1.2.4"))

    assert answer["PhysicalResourceId"] == ARN
    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3"]}


def test_an_update_in_place_of_the_tags_adds_them(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))

    answer = run(event.update("component_version", ARN, Tags={"edgewright:stage": "dev", "team": "vision"}))

    assert answer["PhysicalResourceId"] == ARN
    assert greengrass.called("tag_resource") == [{"resourceArn": ARN, "tags": {"team": "vision"}}]


def test_old_properties_of_an_earlier_release_are_not_needed(greengrass: FakeGreengrass) -> None:
    old = {"InlineRecipe": None, "ComponentVersionArn": None, "Tags": None}

    assert run(event.update("component_version", ARN, old=old))["PhysicalResourceId"] == ARN


@pytest.mark.parametrize("properties", [{}, {"InlineRecipe": "not JSON"}, {"InlineRecipe": None}])
def test_delete_keeps_the_version_and_succeeds_whatever_it_is_told(
    greengrass: FakeGreengrass, properties: dict[str, Any]
) -> None:
    run(event.create("component_version"))
    greengrass.calls.clear()

    for _ in range(2):
        assert run(event.delete("component_version", ARN, **properties)) == {"PhysicalResourceId": ARN}

    assert greengrass.calls == []


GROUP = "arn:aws:iot:eu-west-1:111122223333:thinggroup/edgewright-dev"


def test_a_component_that_no_deployment_names_any_more_goes_with_all_its_versions(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))
    run(event.update("component_version", ARN, **properties("1.2.4")))
    greengrass.deploy("now", GROUP)
    greengrass.named["now"] = {"edgewright.dev.model.Iris": {"componentVersion": "1.0.0"}}

    for _ in range(2):
        run(event.delete("component_version", ARN, TargetArns=[GROUP]))

    assert not greengrass.versions.get("edgewright.dev.Inference")


def test_a_component_that_a_ring_still_has_stays(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))
    greengrass.deploy("now", GROUP)
    greengrass.named["now"] = {"edgewright.dev.Inference": {"componentVersion": "1.2.4"}}

    run(event.delete("component_version", ARN, TargetArns=[f"{GROUP}-canary", GROUP]))

    assert greengrass.versions == {"edgewright.dev.Inference": ["1.2.3"]}


def test_the_recipe_as_greengrass_keeps_it_is_the_same_recipe(greengrass: FakeGreengrass) -> None:
    kept = json.loads(FIRST["InlineRecipe"])
    kept["ComponentType"] = "aws.greengrass.generic"
    kept["Manifests"][0] = {
        "Name": "Linux",
        "Platform": {"os": "Linux"},
        "Lifecycle": {"Run": "exec true"},
        "Artifacts": [{**kept["Manifests"][0]["Artifacts"][0], "Digest": "abc", "Algorithm": "SHA-256"}],
    }
    make_by_hand(greengrass, kept)

    assert run(event.create("component_version"))["Data"]["WasThere"] == "true"
    assert greengrass.described[ARN]["tags"]["edgewright:stage"] == "dev"


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"Manifests": []}, "Manifests"),
        ({"Manifests": [{"Platform": {"os": "linux"}}]}, "Manifests/0/Lifecycle"),
        ({"Manifests": "none"}, "Manifests"),
    ],
)
def test_another_recipe_under_the_same_version_is_named_with_the_way_out(
    greengrass: FakeGreengrass, changes: dict[str, Any], place: str
) -> None:
    make_by_hand(greengrass, {**RECIPE, **changes})

    with pytest.raises(ComponentVersionError) as error:
        run(event.create("component_version"))

    text = str(error.value)
    assert text.startswith("component edgewright.dev.Inference 1.2.3 is there already with another recipe (it differs")
    assert place in text
    assert f"aws greengrassv2 delete-component --arn {ARN}" in text
    assert "raise revision in the stage's file" in text


def test_another_digest_under_the_same_version_is_another_recipe(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))

    with pytest.raises(ComponentVersionError, match="the digest of its recipe"):
        run(event.update("component_version", ARN, **properties("1.2.3", ComponentPublisher="somebody")))


def test_what_greengrass_cannot_use_is_removed_and_explained(greengrass: FakeGreengrass) -> None:
    greengrass.states = ["REQUESTED", "FAILED"]

    with pytest.raises(ComponentVersionError, match=r"Inference 1\.2\.3 cannot be deployed: no such artifact"):
        run(event.create("component_version"))

    assert greengrass.versions == {}


def test_a_failed_version_from_before_is_made_anew(greengrass: FakeGreengrass) -> None:
    make_by_hand(greengrass, RECIPE)
    greengrass.described[ARN]["states"] = ["FAILED"]

    answer = run(event.create("component_version"))

    assert answer["Data"]["WasThere"] == "false"
    assert len(greengrass.called("delete_component")) == 1


def test_a_version_that_vanishes_while_it_is_taken_over_is_made(greengrass: FakeGreengrass) -> None:
    run(event.create("component_version"))
    greengrass.before("describe_component", lambda: greengrass.versions.clear())

    answer = run(event.create("component_version"))

    assert answer["Data"]["WasThere"] == "false"


def test_a_version_that_is_removed_again_and_again_ends_in_an_error(greengrass: FakeGreengrass) -> None:
    greengrass.refuse("describe_component", "ResourceNotFoundException", times=3)

    with pytest.raises(ComponentVersionError, match="removed 3 times"):
        run(event.create("component_version"))


def test_stops_by_itself_before_the_function_is_stopped(greengrass: FakeGreengrass) -> None:
    greengrass.states = ["REQUESTED"]

    with pytest.raises(DeadlineError, match=r"wait for component .*Inference 1\.2\.3, which is REQUESTED"):
        run(event.create("component_version"), seconds=1)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"InlineRecipe": None}, "InlineRecipe is required"),
        ({"InlineRecipe": "{"}, "InlineRecipe must be a JSON object"),
        ({"ComponentVersionArn": f"{ROOT}:9.9.9"}, r"must end with :components:edgewright\.dev\.Inference:versions"),
        ({"Tags": ["a"]}, "Tags must be a mapping, got list"),
    ],
)
def test_refuses_what_is_not_complete(greengrass: FakeGreengrass, changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        run(event.create("component_version", **changes))

    assert greengrass.calls == []


def test_the_sweeps_events_go_to_the_sweep(greengrass: FakeGreengrass) -> None:
    target = "arn:aws:iot:eu-west-1:111122223333:thinggroup/edgewright-dev"
    run(event.create("component_version"))
    request = event.delete("component_sweep", f"sweep-{target}", ComponentNames=["edgewright.dev.*"])

    assert run(request) == {"PhysicalResourceId": f"sweep-{target}"}

    assert greengrass.versions == {}
