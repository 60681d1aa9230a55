"""`up --speed N`: rollouts, time-outs and alarms by the twin's time, in the same order as without."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.twin.conftest import wait_until
from twin import TwinError, lifecycle
from twin.clock import Clock
from twin.devices import simulated_fleet
from twin.simulation.identities import status
from twin.simulation.profile import Lot, read_profile
from twin.state import TwinState, load_state

NAME, GROUP, COUNT = "com.example.Rolled", "rolled", 20
LIMIT_S = 120.0
RECIPE = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": NAME,
    "ComponentVersion": "1.0.0",
    "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": "sleep 600"}, "Artifacts": []}],
}
FAILING = {"seed": 3, "components": [{"component": NAME, "share": 0.3, "exit": {"after_s": 0.1}}]}


def start_rollout(state: TwinState, configuration: dict[str, Any], profile: Any) -> tuple[Any, str]:
    iot, greengrass = (boto3.client(name, **state.client_arguments()) for name in ("iot", "greengrassv2"))
    simulated_fleet.set_count(state, COUNT, group=GROUP, profile=read_profile(profile))
    pages = greengrass.get_paginator("list_core_devices")
    wait_until(lambda: sum(len(page["coreDevices"]) for page in pages.paginate()) == COUNT, LIMIT_S)
    greengrass.create_component_version(inlineRecipe=json.dumps(RECIPE).encode())
    made = greengrass.create_deployment(
        targetArn=f"arn:aws:iot:{state.region}:{state.account}:thinggroup/{GROUP}",
        components={NAME: {"componentVersion": "1.0.0"}},
        iotJobConfiguration=configuration,
    )
    return iot, str(made["iotJobId"])


def executions(iot: Any, job: str) -> list[dict[str, Any]]:
    pages = iot.get_paginator("list_job_executions_for_job").paginate(jobId=job)
    found = [each for page in pages for each in page["executionSummaries"]]
    return [{**each["jobExecutionSummary"], "thing": each["thingArn"].rpartition("/")[2]} for each in found]


def test_a_rollout_of_ten_minutes_goes_in_batches_of_a_minute_of_the_twin(home: Path) -> None:
    state = lifecycle.start(home, speed=60)
    began = time.monotonic()

    iot, job = start_rollout(state, {"jobExecutionsRolloutConfig": {"maximumPerMinute": 2}}, {})

    def all_there() -> list[dict[str, Any]] | None:
        found = executions(iot, job)
        return found if len(found) == COUNT and all(each["status"] == "SUCCEEDED" for each in found) else None

    found = wait_until(all_there, LIMIT_S)
    assert time.monotonic() - began < 540  # of ten minutes of the twin
    batches = Counter(each["queuedAt"].timestamp() for each in found)
    assert list(batches.values()) == [2] * 10
    # Whole seconds are told; on a busy machine a batch may be late, and the next one is a minute after it.
    assert all(later - earlier >= 59 for earlier, later in itertools.pairwise(sorted(batches)))


def test_an_abort_stops_the_rollout_at_the_number_that_the_profile_gives(home: Path) -> None:
    state = lifecycle.start(home, speed=12)  # also on a busy machine a batch has ended when the next one comes
    criteria = {"failureType": "FAILED", "action": "CANCEL", "thresholdPercentage": 10, "minNumberOfExecutedThings": 5}
    configuration = {
        "jobExecutionsRolloutConfig": {"maximumPerMinute": 2},
        "abortConfig": {"criteriaList": [criteria]},
    }

    iot, job = start_rollout(state, configuration, FAILING)

    wait_until(lambda: iot.describe_job(jobId=job)["job"]["status"] == "CANCELED", LIMIT_S)
    profile = read_profile(FAILING)
    things = [f"sim-{n:04}" for n in range(1, COUNT + 1)]
    fails = [Lot(profile, thing).chance("share", 0, NAME, "1.0.0") < 0.3 for thing in things]
    assert sum(fails[:5]) * 100 >= 10 * 5  # so the fifth that ends stops it, whichever of a batch is the quicker one
    told = {each["thing"]: each["status"] for each in executions(iot, job)}
    assert {thing: told[thing] for thing in things[:4]} == {
        thing: "FAILED" if failing else "SUCCEEDED" for thing, failing in zip(things[:4], fails, strict=False)
    }
    ended = [thing for thing, status in told.items() if status in ("SUCCEEDED", "FAILED")]
    assert (len(ended), len(told)) in ((5, 6), (6, 6))


def test_devices_that_are_away_for_hours_get_the_deployment_once_when_they_are_back(home: Path) -> None:
    state = lifecycle.start(home, speed=300)
    # Of every three devices one is gone for hours, from ten minutes after it came.
    away = {"seed": 2, "offline": [{"share": 0.3, "after_s": 600, "for_s": [7200, 10800]}]}
    gone = [n for n in range(1, COUNT + 1) if Lot(read_profile(away), f"sim-{n:04}").outages()]
    assert 2 <= len(gone) <= COUNT // 2
    iot, greengrass = (boto3.client(name, **state.client_arguments()) for name in ("iot", "greengrassv2"))
    simulated_fleet.set_count(state, COUNT, group=GROUP, profile=read_profile(away))
    wait_until(lambda: (status(home) or {}).get("connected") == COUNT - len(gone), LIMIT_S)
    greengrass.create_component_version(inlineRecipe=json.dumps(RECIPE).encode())
    target = f"arn:aws:iot:{state.region}:{state.account}:thinggroup/{GROUP}"
    components = {NAME: {"componentVersion": "1.0.0"}}
    job = str(greengrass.create_deployment(targetArn=target, components=components)["iotJobId"])

    def all_there() -> list[dict[str, Any]] | None:
        found = executions(iot, job)
        return found if len(found) == COUNT and all(each["status"] == "SUCCEEDED" for each in found) else None

    found = wait_until(all_there, LIMIT_S)
    late = [each for each in found if (each["lastUpdatedAt"] - each["queuedAt"]).total_seconds() > 1200]
    assert len(late) >= len(gone) - 1
    # Queued, begun, ended: nothing was begun twice.
    views = [iot.describe_job_execution(jobId=job, thingName=f"sim-{n:04}")["execution"] for n in range(1, COUNT + 1)]
    assert {view["versionNumber"] for view in views} == {3}


def test_the_time_of_a_twin_never_goes_back_and_a_running_one_keeps_its_speed(home: Path) -> None:
    state = lifecycle.start(home, speed=3600)
    with pytest.raises(TwinError, match="--speed must be 3600 while the twin runs, got 60: stop it first"):
        lifecycle.start(home, speed=60)
    assert lifecycle.start(home).clock == state.clock
    time.sleep(1)
    before = Clock.read(state.clock).time()
    assert before > time.time() + 1800
    lifecycle.stop(home)

    lifecycle.start(home)

    known = load_state(home)
    assert known is not None
    after = Clock.read(known.clock)
    assert after.speed == 1
    assert after.time() >= before


def test_what_is_made_has_the_time_that_devices_report_with(home: Path) -> None:
    state = lifecycle.start(home, speed=3600)
    time.sleep(1)
    iot, s3 = (boto3.client(name, **state.client_arguments()) for name in ("iot", "s3"))
    s3.create_bucket(Bucket="said")
    before = Clock.read(state.clock).time()
    assert before > time.time() + 1800

    made = iot.create_keys_and_certificate(setAsActive=True)["certificateId"]
    s3.put_object(Bucket="said", Key="device.json", Body=b"{}")

    certificate = iot.describe_certificate(certificateId=made)["certificateDescription"]
    assert certificate["creationDate"].timestamp() >= before  # the report of a server before it is older
    kept = s3.get_object(Bucket="said", Key="device.json")["LastModified"]
    assert kept.timestamp() >= before - 1  # the header has whole seconds; a deploy counts what came after it


@pytest.mark.parametrize("speed", [0.0, 0.5, 3601.0, -1.0])
def test_a_speed_out_of_range_is_refused(home: Path, speed: float) -> None:
    with pytest.raises(TwinError, match="--speed must be from 1 to 3600, got "):
        lifecycle.start(home, speed=speed)
