"""The twin, a device or both are killed in the middle of a deployment: it ends with a status and a reason."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.twin.conftest import saved, wait_until
from tests.twin.test_devices import pids, status_of
from twin import lifecycle
from twin.devices.membership import set_own_devices
from twin.process import devices_folder
from twin.state import TwinState

NAME = "com.example.Slow"
END_S = 60.0
UNTIL_TOLD = "while [ ! -e ../go-on ]; do sleep 0.1; done"


@pytest.fixture
def small_twin(home: Path) -> TwinState:
    state = lifecycle.start(home)
    set_own_devices(state, 1, group="ring", dialect="lite")
    client = boto3.client("greengrassv2", **state.client_arguments())
    wait_until(lambda: client.list_core_devices()["coreDevices"])
    return state


def greengrass(state: TwinState) -> Any:
    return boto3.client("greengrassv2", **state.client_arguments())


def component(state: TwinState, version: str, install: str) -> None:
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": {"install": f"echo {version} >> ../begun; {install}", "run": "sleep 600"},
        "Artifacts": [],
    }
    head = {"RecipeFormatVersion": "2020-01-25", "ComponentName": NAME, "ComponentVersion": version}
    greengrass(state).create_component_version(inlineRecipe=json.dumps({**head, "Manifests": [manifest]}))


def deploy(state: TwinState, version: str, **more: Any) -> str:
    target = f"arn:aws:iot:{state.region}:{state.account}:thinggroup/ring"
    answer = greengrass(state).create_deployment(
        targetArn=target, components={NAME: {"componentVersion": version}}, **more
    )
    return str(answer["deploymentId"])


def work(state: TwinState) -> Path:
    return devices_folder(state.home) / "device-01" / "work"


def go_on(state: TwinState) -> None:
    (work(state) / "go-on").touch()


def begun(state: TwinState, version: str) -> bool:
    path = work(state) / "begun"
    return path.exists() and version in path.read_text()


def kill_device(state: TwinState) -> None:
    pid = pids(state)["device-01"]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def kill_cloud(state: TwinState) -> None:
    # What it had written in the last second would be lost: a crash of the machine, not of the test.
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: not state.running)


def kill_both(state: TwinState) -> None:
    kill_cloud(state)
    kill_device(state)


@pytest.mark.parametrize("kill", [kill_device, kill_cloud, kill_both])
@pytest.mark.parametrize(("ends", "expected"), [("exit 0", "SUCCEEDED"), ("exit 3", "FAILED")])
def test_a_deployment_that_is_interrupted_ends(
    small_twin: TwinState, kill: Callable[[TwinState], None], ends: str, expected: str
) -> None:
    component(small_twin, "1.0.0", f"{UNTIL_TOLD}; {ends}")
    deployment = deploy(small_twin, "1.0.0")
    wait_until(lambda: begun(small_twin, "1.0.0"))
    wait_until(lambda: status_of(greengrass(small_twin), "device-01", deployment) == "IN_PROGRESS")
    wait_until(lambda: deployment in saved(small_twin.home, "twin_greengrass_deployments"))

    kill(small_twin)
    state = lifecycle.start(small_twin.home)
    go_on(state)

    wait_until(lambda: status_of(greengrass(state), "device-01", deployment) == expected, END_S)
    if expected == "FAILED":
        iot = boto3.client("iot", **state.client_arguments())
        job = greengrass(state).get_deployment(deploymentId=deployment)["iotJobId"]
        execution = iot.describe_job_execution(jobId=job, thingName="device-01")["execution"]
        cause = execution["statusDetails"]["detailsMap"]["deployment-failure-cause"]
        assert "com.example.Slow 1.0.0: the install step exited with 3" in cause


def test_a_job_that_is_cancelled_while_it_runs_does_not_stand_in_the_way_of_the_next(small_twin: TwinState) -> None:
    component(small_twin, "1.0.0", UNTIL_TOLD)
    component(small_twin, "1.0.1", "true")
    first = deploy(small_twin, "1.0.0")
    wait_until(lambda: begun(small_twin, "1.0.0"))

    greengrass(small_twin).cancel_deployment(deploymentId=first)
    second = deploy(small_twin, "1.0.1")
    go_on(small_twin)

    wait_until(lambda: status_of(greengrass(small_twin), "device-01", second) == "SUCCEEDED", END_S)
    assert status_of(greengrass(small_twin), "device-01", first) == "CANCELED"
    (installed,) = greengrass(small_twin).list_installed_components(coreDeviceThingName="device-01")[
        "installedComponents"
    ]
    assert (installed["componentVersion"], installed["lifecycleState"]) == ("1.0.1", "RUNNING")
    assert "Traceback" not in (devices_folder(small_twin.home) / "device-01/log/core_device.log").read_text()


def test_a_rollout_stops_when_its_abort_criteria_are_met(small_twin: TwinState) -> None:
    set_own_devices(small_twin, 3, group="ring", dialect="lite")
    wait_until(lambda: len(greengrass(small_twin).list_core_devices()["coreDevices"]) == 3)
    component(small_twin, "1.0.0", "exit 3")
    criteria = {
        "failureType": "FAILED",
        "action": "CANCEL",
        "thresholdPercentage": 10.0,
        "minNumberOfExecutedThings": 1,
    }
    rules = {"jobExecutionsRolloutConfig": {"maximumPerMinute": 1}, "abortConfig": {"criteriaList": [criteria]}}

    deployment = deploy(small_twin, "1.0.0", iotJobConfiguration=rules)

    client = greengrass(small_twin)
    wait_until(lambda: client.get_deployment(deploymentId=deployment)["deploymentStatus"] == "CANCELED", END_S)
    statuses = [status_of(client, f"device-0{number}", deployment) for number in (1, 2, 3)]
    assert statuses.count("FAILED") == 1, "the rate lets one device begin"
    assert set(statuses) <= {"FAILED", "none", "CANCELED"}
