from typing import Any

import pytest

from edge_handlers.component_library import on_event
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass

TARGET = "arn:aws:iot:eu-west-1:111122223333:thinggroup/edgewright-dev"
OTHER = "arn:aws:iot:eu-west-1:111122223333:thinggroup/somebody-else"
ID = f"sweep-{TARGET}"


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return on_event(request, Context(seconds))


@pytest.fixture
def account(greengrass: FakeGreengrass) -> FakeGreengrass:
    greengrass.versions = {
        "edgewright.dev.Runtime": ["1.0.1", "1.0.2", "1.0.3"],
        "edgewright.dev.model.Digits": ["1.0.1"],
        "edgewright.dev.model.Former": ["1.0.1"],
        "edgewright.development.Runtime": ["1.0.1"],
    }
    greengrass.deploy("first", TARGET, "CANCELED")
    greengrass.deploy("second", TARGET)
    greengrass.deploy("third", TARGET, "COMPLETED")
    greengrass.deploy("foreign", OTHER)
    return greengrass


def test_create_and_update_touch_nothing(account: FakeGreengrass) -> None:
    assert run(event.create("component_sweep")) == {"PhysicalResourceId": ID}
    answer = run(event.update("component_sweep", ID, old={"ComponentNames": ["edgewright.dev.model.Former"]}))

    assert answer == {"PhysicalResourceId": ID}
    assert account.calls == []


def test_delete_takes_the_targets_deployments_and_the_named_components(account: FakeGreengrass) -> None:
    assert run(event.delete("component_sweep", ID)) == {"PhysicalResourceId": ID}

    assert list(account.deployments) == ["foreign"]
    assert set(account.versions) == {"edgewright.dev.model.Former", "edgewright.development.Runtime"}
    assert account.called("list_deployments") == [{"targetArn": TARGET, "historyFilter": "ALL"}]


def test_cancels_only_what_is_active(account: FakeGreengrass) -> None:
    run(event.delete("component_sweep", ID))

    assert account.called("cancel_deployment") == [{"deploymentId": "second"}]


def test_deployments_go_before_the_components_they_use(account: FakeGreengrass) -> None:
    run(event.delete("component_sweep", ID))

    order = [name for name, _ in account.calls if name.startswith("delete")]
    assert order == ["delete_deployment"] * 3 + ["delete_component"] * 4


def test_an_asterisk_takes_in_components_that_left_the_configuration(account: FakeGreengrass) -> None:
    run(event.delete("component_sweep", ID, ComponentNames=["edgewright.dev.Runtime", "edgewright.dev.*"]))

    assert set(account.versions) == {"edgewright.development.Runtime"}


@pytest.mark.parametrize("name", ["*", "edgewright*", "edgewright.*", "edgewright.*.Runtime"])
def test_refuses_an_asterisk_that_takes_in_too_much(account: FakeGreengrass, name: str) -> None:
    with pytest.raises(ValueError, match="ComponentNames may use an asterisk only as the last of three"):
        run(event.create("component_sweep", ComponentNames=[name]))


def test_refuses_a_target_that_is_no_thing_group(account: FakeGreengrass) -> None:
    with pytest.raises(ValueError, match="ThingGroupArn must be the ARN of a thing group, got 'edgewright-dev'"):
        run(event.create("component_sweep", ThingGroupArn="edgewright-dev"))


def test_delete_again_succeeds(account: FakeGreengrass) -> None:
    run(event.delete("component_sweep", ID))

    assert run(event.delete("component_sweep", ID)) == {"PhysicalResourceId": ID}


def test_another_target_is_no_replacement_whose_delete_would_take_components_in_use(account: FakeGreengrass) -> None:
    answer = run(event.update("component_sweep", ID, ThingGroupArn=OTHER))

    assert answer == {"PhysicalResourceId": ID}
    assert account.calls == []


def test_a_rollback_touches_nothing_and_old_properties_are_not_needed(account: FakeGreengrass) -> None:
    old = {"ThingGroupArn": None, "ComponentNames": None}

    assert run(event.update("component_sweep", ID, old=old)) == {"PhysicalResourceId": ID}
    assert account.calls == []


def test_a_deployment_that_is_still_being_cancelled_is_waited_for(account: FakeGreengrass, pauses: list[float]) -> None:
    account.refuse("delete_deployment", "ConflictException", times=2)

    run(event.delete("component_sweep", ID))

    assert list(account.deployments) == ["foreign"]
    assert pauses == [2.0, 2.0]


def test_a_deployment_that_stays_in_conflict_is_named(account: FakeGreengrass) -> None:
    account.refuse("delete_deployment", "ConflictException", times=6)

    with pytest.raises(AwsCallError, match=f"cannot delete deployment first of {TARGET}: .*ConflictException"):
        run(event.delete("component_sweep", ID))


@pytest.mark.parametrize("call", ["cancel_deployment", "delete_deployment", "delete_component"])
def test_what_vanishes_between_listing_and_deleting_is_fine(account: FakeGreengrass, call: str) -> None:
    account.refuse(call, "ResourceNotFoundException")

    assert run(event.delete("component_sweep", ID)) == {"PhysicalResourceId": ID}


@pytest.mark.parametrize(
    ("call", "doing"),
    [
        ("list_deployments", "list the deployments of"),
        ("cancel_deployment", "delete deployment second"),
        ("list_component_versions", "list the versions of component edgewright.dev.Runtime"),
        ("delete_component", r"delete component version arn:aws:greengrass.*Runtime:versions:1\.0\.1"),
    ],
)
@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException"])
def test_other_refusals_say_what_was_being_done(account: FakeGreengrass, call: str, doing: str, code: str) -> None:
    account.refuse(call, code)

    with pytest.raises(AwsCallError, match=f"cannot {doing}.*{code}"):
        run(event.delete("component_sweep", ID))


def test_stops_by_itself_before_the_function_is_stopped(account: FakeGreengrass) -> None:
    with pytest.raises(DeadlineError, match="delete deployment first; run the same command again"):
        run(event.delete("component_sweep", ID), seconds=1)


def test_delete_takes_the_deployments_of_the_other_rings_too(greengrass: FakeGreengrass) -> None:
    greengrass.deploy("canary", f"{TARGET}-canary")
    greengrass.deploy("other", OTHER)

    run(event.delete("component_sweep", ID, RingArns=[f"{TARGET}-canary"]))

    assert "canary" not in greengrass.deployments
    assert "other" in greengrass.deployments


def test_refuses_a_ring_that_is_no_thing_group(greengrass: FakeGreengrass) -> None:
    with pytest.raises(ValueError, match="RingArns must be the ARN of a thing group, got 'canary'"):
        run(event.create("component_sweep", RingArns=["canary"]))
