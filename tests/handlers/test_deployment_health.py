import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge_handlers.deployment_health import DeploymentHealthError, is_complete, on_event
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_rollout import TARGET, FakeRollout

OTHER = f"{TARGET}-canary"
ID = "health-edgewright-dev"
WAIT = {"IsComplete": False}


def look(request: dict[str, Any], *, late: bool = False) -> dict[str, Any]:
    """One poll after `on_event`, past the time-out if `late`."""
    polled = event.poll(request, on_event(request, Context()))
    return is_complete({**polled, "WaitUntil": 0} if late else polled, Context())


def create(**changes: Any) -> dict[str, Any]:
    return event.create("deployment_health", **changes)


def healthy(count: int, of: int) -> dict[str, Any]:
    return {"IsComplete": True, "Data": {"Healthy": str(count), "Devices": str(of)}}


def test_create_sets_the_time_and_names_itself_after_the_group() -> None:
    answer = on_event(create(), Context())

    assert answer["PhysicalResourceId"] == ID
    assert 1140 <= answer["WaitUntil"] - time.time() <= 1200


def test_is_complete_when_every_device_runs_the_deployment(rollout: FakeRollout) -> None:
    for name in ("one", "two", "three"):
        rollout.device(name, TARGET, "IN_PROGRESS")
    request = create()

    assert look(request) == WAIT
    for name in ("one", "two", "three"):
        rollout.device(name, TARGET, "SUCCEEDED")
    assert look(request) == healthy(3, 3)
    assert look(request) == healthy(3, 3)  # a duplicate of the event changes nothing


def test_a_ring_without_a_core_device_is_passed_at_once(rollout: FakeRollout) -> None:
    rollout.device("elsewhere", OTHER, "FAILED")

    assert look(create()) == healthy(0, 0)


def test_an_expected_device_is_waited_for_until_it_reports(rollout: FakeRollout) -> None:
    request = create(ExpectedDevices=["edge-server"])

    assert look(request) == WAIT
    rollout.device("edge-server", TARGET, "SUCCEEDED")
    assert look(request) == healthy(1, 1)


def test_a_device_that_the_rollout_has_not_reached_is_waited_for(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.device("two", TARGET, None)

    assert look(create()) == WAIT


def test_a_device_that_broke_after_its_deployment_is_not_healthy(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED", status="UNHEALTHY")

    assert look(create()) == WAIT
    with pytest.raises(DeploymentHealthError, match=r"waited for one \(UNHEALTHY\)$"):
        look(create(), late=True)


def test_a_failure_names_device_component_and_cause(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.device("two", TARGET, "FAILED")
    rollout.causes["two"] = "edgewright.dev.Inference ended with 1 three times"

    with pytest.raises(DeploymentHealthError) as caught:
        look(create())

    assert str(caught.value) == (
        "deployment new of ring all failed on 1 of 2 devices: two FAILED: component edgewright.dev.Inference 1.0.3: "
        "edgewright.dev.Inference ended with 1 three times"
    )


def test_a_component_that_is_still_broken_is_named_by_the_device(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "FAILED")
    rollout.broken["one"] = ("edgewright.dev.model.Digits", "BROKEN")

    with pytest.raises(
        DeploymentHealthError, match=r"one FAILED: component edgewright.dev.model.Digits 1.0.3 BROKEN: FAI"
    ):
        look(create())


def test_without_a_cause_the_error_codes_of_the_device_are_told(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "REJECTED")

    with pytest.raises(
        DeploymentHealthError, match=r"one REJECTED: FAILED_ROLLBACK_COMPLETE: DEPLOYMENT_FAILURE, COMPONENT_BROKEN$"
    ):
        look(create())


@pytest.mark.parametrize("call", ["list_effective_deployments", "list_installed_components", "describe_job_execution"])
def test_a_cause_that_cannot_be_read_does_not_hide_the_failure(rollout: FakeRollout, call: str) -> None:
    rollout.device("one", TARGET, "FAILED")
    rollout.refuse(call, "AccessDeniedException")

    with pytest.raises(DeploymentHealthError, match="failed on 1 of 1 devices: one FAILED"):
        look(create())


def test_many_failures_fit_into_a_stack_event(rollout: FakeRollout) -> None:
    for number in range(500):
        rollout.device(f"device-{number:03}", TARGET, "FAILED")
        rollout.causes[f"device-{number:03}"] = "edgewright.dev.Inference " + "x" * 5000

    with pytest.raises(DeploymentHealthError, match=r"on 500 of 500 devices: .*; and 497 more$") as caught:
        look(create())

    assert len(str(caught.value)) < 1600
    assert len(rollout.called("describe_job_execution")) == 3


@pytest.mark.parametrize(("failed", "complete"), [(1, True), (2, True)])
def test_a_share_of_failures_may_be_allowed(rollout: FakeRollout, failed: int, complete: bool) -> None:
    for number in range(10):
        rollout.device(f"device-{number}", TARGET, "FAILED" if number < failed else "SUCCEEDED")

    assert look(create(HealthyPercentage="80"))["IsComplete"] is complete


def test_one_failure_too_many_is_told_while_others_are_still_at_work(rollout: FakeRollout) -> None:
    for number in range(10):
        rollout.device(f"device-{number}", TARGET, "FAILED" if number < 3 else "QUEUED")

    with pytest.raises(DeploymentHealthError, match="failed on 3 of 10 devices"):
        look(create(HealthyPercentage="80"))


def test_the_time_out_names_who_was_waited_for(rollout: FakeRollout) -> None:
    rollout.device("one", TARGET, "SUCCEEDED")
    rollout.device("two", TARGET, "QUEUED")
    rollout.device("three", TARGET, None)

    with pytest.raises(DeploymentHealthError) as caught:
        look(create(ExpectedDevices=["edge-server"]), late=True)

    assert str(caught.value) == (
        "deployment new of ring all must be healthy on 4 of 4 devices within 1200 s, 1 are; waited for "
        "edge-server (has never reported), three (not reached yet), two (QUEUED); who stays QUEUED is switched off or "
        "cut off: health.away_minutes lets a deploy do without it"
    )


def test_a_time_out_of_a_large_ring_stays_short(rollout: FakeRollout) -> None:
    for number in range(3000):
        rollout.device(f"device-{number:04}", TARGET, "QUEUED")

    with pytest.raises(DeploymentHealthError, match=r"device-0009 \(QUEUED\), and 2990 more; who "):
        look(create(), late=True)


@pytest.mark.parametrize("status", ["CANCELED", "FAILED", "INACTIVE"])
def test_a_deployment_that_was_ended_is_a_failure_at_once(rollout: FakeRollout, status: str) -> None:
    rollout.device("one", TARGET, "FAILED")
    rollout.device("two", TARGET, None)
    rollout.deployments["new"]["deploymentStatus"] = status

    with pytest.raises(DeploymentHealthError, match=rf"was ended \({status}\) on 1 of 2 devices: one FAILED"):
        look(create(HealthyPercentage="1"))


AWAY = {"AwaySeconds": "300", "PresentPercentage": "60"}


def at_the_bench(rollout: FakeRollout, away: int, minutes: float = 6) -> None:
    """Five devices, some of which have not taken up what they were offered so long ago."""
    rollout.offered = datetime.now(UTC) - timedelta(minutes=minutes)
    for number in range(5):
        rollout.device(f"device-{number}", TARGET, "QUEUED" if number < away else "SUCCEEDED")


@pytest.mark.parametrize("away", [1, 2])
def test_devices_that_are_away_are_not_waited_for_where_the_stage_says_so(
    rollout: FakeRollout, away: int, caplog: pytest.LogCaptureFixture
) -> None:
    at_the_bench(rollout, away)

    assert look(create()) == WAIT
    assert look(create(**AWAY)) == healthy(5 - away, 5)
    assert f"{away} devices are away and not waited for: device-0" in caplog.text


def test_a_device_that_may_still_take_it_up_is_no_absent_one(rollout: FakeRollout) -> None:
    at_the_bench(rollout, 1, minutes=4)
    assert look(create(**AWAY)) == WAIT

    at_the_bench(rollout, 0)
    for state in ("IN_PROGRESS", None):
        rollout.executions["device-0"].clear()
        rollout.device("device-0", TARGET, state)
        assert look(create(**AWAY)) == WAIT


def test_too_many_that_are_away_fail_the_deploy_by_name(rollout: FakeRollout) -> None:
    at_the_bench(rollout, 3)

    assert look(create(**AWAY)) == WAIT
    with pytest.raises(DeploymentHealthError) as caught:
        look(create(**AWAY), late=True)

    assert str(caught.value) == (
        "deployment new of ring all must be healthy on 2 of 2 devices within 1200 s, 2 are; away: device-0, device-1, "
        "device-2; at least 60 % of 5 must be there (health.present_percentage)"
    )


def test_a_ring_of_which_nobody_is_there_is_not_healthy(rollout: FakeRollout) -> None:
    at_the_bench(rollout, 5)

    assert look(create(AwaySeconds="300", PresentPercentage="1")) == WAIT


def test_a_failure_counts_among_those_that_are_there(rollout: FakeRollout) -> None:
    at_the_bench(rollout, 1)
    rollout.device("device-4", TARGET, "FAILED")

    with pytest.raises(DeploymentHealthError, match=r"failed on 1 of 5 devices: device-4 FAILED"):
        look(create(**AWAY, HealthyPercentage="80"))
