"""Update, rollback, replacement, Delete, and calls that are refused."""

from typing import Any

import pytest

from edge_handlers.deployment_health import DeploymentHealthError, is_complete, on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_rollout import TARGET, FakeRollout
from tests.handlers.test_deployment_health import ID, OTHER, WAIT, create, healthy, look


def update(new: str, old: str, **changes: Any) -> dict[str, Any]:
    return event.update("deployment_health", ID, old={"DeploymentId": old}, DeploymentId=new, **changes)


def test_update_waits_for_the_new_deployment_in_place(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED", of="new")
    rollout.deploy("newer", TARGET)
    request = update("newer", old="new")

    assert on_event(request, Context())["PhysicalResourceId"] == ID
    assert look(request) == WAIT
    rollout.device("one", TARGET, "SUCCEEDED", of="newer")
    assert look(request) == healthy(1, 1)


def brought_back(rollout: FakeRollout) -> str:
    """Id of the deployment that a rollback has made."""
    (made,) = {made["clientToken"] for name, made in rollout.calls if name == "create_deployment"}
    return str(made)


def test_a_rollback_deploys_the_former_content_anew_and_waits_for_it(rollout: FakeRollout) -> None:
    former = rollout.deployments["new"]
    former |= {"deploymentName": "d", "deploymentPolicies": {"p": 1}, "iotJobConfiguration": {"j": 1}, "tags": {}}
    rollout.deploy("newer", TARGET)
    rollout.device("one", TARGET, "FAILED", of="newer")
    request = update("new", old="newer")

    polled = event.poll(request, on_event(request, Context()))
    again = on_event(request, Context())
    assert is_complete(polled, Context()) == WAIT
    made = brought_back(rollout)
    rollout.device("one", TARGET, "SUCCEEDED", of=made)
    assert is_complete(polled, Context()) == healthy(1, 1)

    assert again["BroughtBack"] == made
    for key in ("targetArn", "deploymentName", "components", "deploymentPolicies", "iotJobConfiguration"):
        assert rollout.deployments[made][key] == former[key]
    assert "tags" not in rollout.deployments[made]


@pytest.mark.parametrize("late", [False, True])
def test_devices_that_do_not_come_back_do_not_fail_the_rollback(rollout: FakeRollout, late: bool) -> None:
    rollout.deploy("newer", TARGET)
    request = update("new", old="newer")
    rollout.device("one", TARGET, None)
    look(request)
    if not late:
        rollout.device("one", TARGET, "FAILED", of=brought_back(rollout))

    assert look(request, late=late) == healthy(0, 0)


def test_another_failure_is_brought_back_by_another_deployment(rollout: FakeRollout) -> None:
    made = []
    for failed in ("second", "third"):
        rollout.deploy(failed, TARGET)
        made.append(on_event(update("new", old=failed), Context())["BroughtBack"])

    assert len(set(made)) == 2


def test_a_ring_that_was_not_changed_and_an_update_that_was_superseded_are_left_alone(rollout: FakeRollout) -> None:
    assert "BroughtBack" not in on_event(update("new", old="newer"), Context())
    rollout.deploy("newer", TARGET)
    rollout.deploy("of-somebody-else", TARGET)

    assert "BroughtBack" not in on_event(update("newer", old="new"), Context())
    assert look(update("newer", old="new")) == healthy(0, 0)


def test_an_update_of_the_check_alone_brings_nothing_back(rollout: FakeRollout) -> None:
    rollout.deploy("of-somebody-else", TARGET)
    request = update("new", old="new", HealthyPercentage="90")

    assert "BroughtBack" not in on_event(request, Context())
    assert look(request) == healthy(0, 0)
    assert "create_deployment" not in [name for name, _ in rollout.calls]


def test_a_former_deployment_is_brought_back_without_word_of_the_failed_one(rollout: FakeRollout) -> None:
    rollout.deploy("newer", TARGET)
    request = update("new", old="newer")
    request["OldResourceProperties"] = {}

    assert "BroughtBack" in on_event(request, Context())
    del rollout.deployments["newer"]
    assert "BroughtBack" in on_event(update("new", old="newer"), Context())


def test_a_rollback_to_a_deployment_that_is_gone_is_not_held_up(rollout: FakeRollout) -> None:
    assert look(update("deleted", old="new")) == healthy(0, 0)


def test_another_group_is_another_resource_and_the_former_one_goes_in_silence(rollout: FakeRollout) -> None:
    rollout.deploy("canary", OTHER)
    request = update("canary", old="new", ThingGroupArn=OTHER)

    assert on_event(request, Context())["PhysicalResourceId"] == "health-edgewright-dev-canary"
    former = event.delete("deployment_health", ID)
    assert on_event(former, Context()) == {"PhysicalResourceId": ID}
    assert is_complete(former, Context()) == {"IsComplete": True}


def test_delete_calls_nobody_however_often_and_whatever_the_properties_are(rollout: FakeRollout) -> None:
    rollout.refuse("get_deployment", "ValidationException", times=9)
    for request in [
        event.delete("deployment_health", ID),
        event.delete("deployment_health", ID, DeploymentId=None),
    ] * 2:
        assert on_event(request, Context()) == {"PhysicalResourceId": ID}
        assert is_complete(request, Context()) == {"IsComplete": True}

    assert rollout.calls == []


@pytest.mark.parametrize("fate", ["gone", "superseded"])
def test_a_new_deployment_that_somebody_took_away_is_a_failure(rollout: FakeRollout, fate: str) -> None:
    if fate == "gone":
        rollout.deployments.clear()
    else:
        rollout.deploy("of-somebody-else", TARGET)

    with pytest.raises(DeploymentHealthError, match=rf"^deployment new of ring all .*{fate}.*: deploy again$"):
        look(create())


@pytest.mark.parametrize("call", ["get_deployment", "list_core_devices", "list_job_executions_for_job"])
def test_a_denied_call_is_explained(rollout: FakeRollout, call: str) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.refuse(call, "AccessDeniedException")

    with pytest.raises(AwsCallError, match=r"^cannot \w+ .+: .*AccessDeniedException"):
        look(create())
    assert look(create()) == healthy(1, 1)


@pytest.mark.parametrize("call", ["get_deployment", "list_core_devices", "list_job_executions_for_job"])
def test_throttling_costs_polls_until_the_time_is_over(rollout: FakeRollout, call: str) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.refuse(call, "ThrottlingException", times=6)
    request = create()

    assert [look(request) for _ in range(5)] == [WAIT] * 5
    with pytest.raises(AwsCallError, match="ThrottlingException"):
        look(request, late=True)
    assert look(request) == healthy(1, 1)


def test_a_job_that_is_not_there_yet_has_reached_nobody(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.refuse("list_job_executions_for_job", "ResourceNotFoundException")

    assert look(create()) == WAIT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"DeploymentId": None}, "DeploymentId is required"),
        ({"ThingGroupArn": "edgewright-dev"}, "ThingGroupArn must be the ARN of a thing group, got 'edgewright-dev'"),
        ({"HealthyPercentage": "0"}, "HealthyPercentage must be a whole number of at least 1, got '0'"),
        ({"HealthyPercentage": "101"}, "HealthyPercentage must be at most 100, got 101"),
        ({"PresentPercentage": "101"}, "PresentPercentage must be at most 100, got 101"),
        ({"AwaySeconds": "-1"}, "AwaySeconds must be a whole number of at least 0, got '-1'"),
        ({"TimeoutSeconds": "soon"}, "TimeoutSeconds must be a whole number of at least 1, got 'soon'"),
        ({"ExpectedDevices": "edge-server"}, "ExpectedDevices must be a list of non-empty strings"),
    ],
)
def test_refuses_properties_before_anything_is_waited_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        on_event(create(**changes), Context())
