"""`up --devices`: several core devices, each with its own identity, in one twin."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from tests.twin.conftest import wait_until
from twin import TwinError, faults, inventory, lifecycle
from twin.cli import application
from twin.core_device.processes import FAULTS
from twin.devices.identity import make_certificate
from twin.devices.membership import set_own_devices
from twin.process import CUT_OFF, DEVICE_VARIABLE, device_pid, devices_folder, processes_where
from twin.state import TwinState
from twin.status import DeviceStatus, device_roots, joined_devices, take_status

RECIPE = """{"RecipeFormatVersion": "2020-01-25", "ComponentName": "com.example.Hello", "ComponentVersion": "%s",
"Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Artifacts": [], "Lifecycle": {"run": "%s"}}]}"""


@pytest.fixture
def small_twin(home: Path) -> TwinState:
    return lifecycle.start(home)


def pids(state: TwinState) -> dict[str, int | None]:
    return {device.thing_name: device.pid for device in take_status(state).devices}


def status_of(greengrass: Any, thing: str, deployment: str) -> str:
    try:
        found = greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
    except greengrass.exceptions.ResourceNotFoundException:
        return "not joined"
    return next((e["coreDeviceExecutionStatus"] for e in found if e["deploymentId"] == deployment), "none")


def deploy(state: TwinState, group: str, version: str, script: str) -> str:
    greengrass = boto3.client("greengrassv2", **state.client_arguments())
    greengrass.create_component_version(inlineRecipe=RECIPE % (version, script))
    target = f"arn:aws:iot:{state.region}:{state.account}:thinggroup/{group}"
    components = {"com.example.Hello": {"componentVersion": version}}
    return str(greengrass.create_deployment(targetArn=target, components=components)["deploymentId"])


def test_a_ring_gets_its_deployment_an_offline_member_catches_up_and_nothing_is_left(
    small_twin: TwinState, monkeypatch: pytest.MonkeyPatch
) -> None:
    greengrass = boto3.client("greengrassv2", **small_twin.client_arguments())
    set_own_devices(small_twin, 2, group="ring-a", dialect="lite")
    set_own_devices(small_twin, 3, group="ring-b", dialect="classic")
    wait_until(lambda: all(pids(small_twin).values()) and len(greengrass.list_core_devices()["coreDevices"]) == 3)
    one_known = replace(take_status(small_twin), devices=[DeviceStatus("device-01", None)])
    assert joined_devices(one_known) == {"device-02": "HEALTHY", "device-03": "HEALTHY"}
    assert joined_devices(take_status(small_twin)) == {}
    monkeypatch.setenv("TWIN_HOME", str(small_twin.home))
    # Taken for one that joined: its log is nowhere here.
    monkeypatch.setattr("twin.cli.joined_devices", lambda _status: {"board-1": "HEALTHY"})
    (small_twin.home / "log" / "cloud.log").open("a").write("INFO board-1 has connected\nINFO board-2, too\n")
    told = CliRunner().invoke(application, ["logs", "board-1"]).output
    assert "board-1 has joined: its own logs are on it" in told
    assert ("board-1 has connected" in told, "board-2" in told) == (True, False)
    with pytest.raises(TwinError, match="WHO must be part of a log's name, got 'board-9'"):
        CliRunner().invoke(application, ["logs", "board-9"], catch_exceptions=False)
    offline = pids(small_twin)["device-02"]
    assert offline is not None
    os.kill(offline, signal.SIGSTOP)

    deployment = deploy(small_twin, "ring-a", "1.0.0", "sleep 600")

    wait_until(lambda: status_of(greengrass, "device-01", deployment) == "SUCCEEDED")
    assert status_of(greengrass, "device-02", deployment) == "QUEUED"
    assert status_of(greengrass, "device-03", deployment) == "none"
    runtimes = {d["coreDeviceThingName"]: d["runtime"] for d in greengrass.list_core_devices()["coreDevices"]}
    assert (runtimes["device-01"], runtimes["device-03"]) == ("aws_nucleus_lite", "aws_nucleus_classic")

    os.kill(offline, signal.SIGCONT)

    wait_until(lambda: status_of(greengrass, "device-02", deployment) == "SUCCEEDED")
    assert "Hello  1.0.0  RUNNING" in CliRunner().invoke(application, ["status"]).output
    *_, known, unasked = json.loads(CliRunner().invoke(application, ["status", "--json"]).output)["core_devices"]
    assert (known["thing_name"], known["status"]) == ("device-02", "HEALTHY")
    assert known["deployment"] == "SUCCEEDED (SUCCESSFUL)"
    assert {"name": "com.example.Hello", "version": "1.0.0", "state": "RUNNING"} in known["components"]
    assert (unasked["thing_name"], unasked["deployment"]) == ("device-03", "")

    os.kill(offline, signal.SIGKILL)

    wait_until(lambda: pids(small_twin)["device-02"] not in (None, offline))

    # A device outside of the ring gets nothing and fails at nothing, until it is in the ring.
    core = greengrass.get_core_device(coreDeviceThingName="device-03")
    assert (core["status"], status_of(greengrass, "device-03", deployment)) == ("HEALTHY", "none")
    iot = boto3.client("iot", **small_twin.client_arguments())
    iot.add_thing_to_thing_group(thingGroupName="ring-a", thingName="device-03")
    wait_until(lambda: status_of(greengrass, "device-03", deployment) == "SUCCEEDED", 30)

    log = devices_folder(small_twin.home) / "device-01" / "log" / "core_device.log"
    connected = log.read_text().count(" connected to ")
    for daemon in FAULTS:
        faults.do(small_twin, "device-01", daemon, "com.example.x")
    wait_until(lambda: all(f"the daemon {daemon} is started anew" in log.read_text() for daemon in FAULTS))
    wait_until(lambda: log.read_text().count(" connected to ") > connected)
    for device, daemon, text in (
        ("device-01", "disk", "FAULT must be one of"),
        ("device-09", "ipc", "there are device-01"),
    ):
        with pytest.raises(TwinError, match=text):
            faults.do(small_twin, device, daemon, "com.example.x")

    lifecycle.stop(small_twin.home)

    assert processes_where(lambda e: str(e.get(DEVICE_VARIABLE)).startswith(str(small_twin.home))) == []


def test_a_device_goes_on_with_a_new_certificate_and_key_when_the_old_ones_are_revoked(small_twin: TwinState) -> None:
    greengrass, iot = (boto3.client(each, **small_twin.client_arguments()) for each in ("greengrassv2", "iot"))
    set_own_devices(small_twin, 1, group="ring", dialect="lite")
    wait_until(lambda: len(greengrass.list_core_devices()["coreDevices"]) == 1)
    process = pids(small_twin)["device-01"]
    (old,) = iot.list_thing_principals(thingName="device-01")["principals"]
    (policy,) = iot.list_attached_policies(target=old)["policies"]
    configuration = yaml.safe_load((devices_folder(small_twin.home) / "device-01" / "config.yaml").read_text())
    new = make_certificate(iot, policy["policyName"], "device-01")
    Path(configuration["system"]["certificateFilePath"]).write_text(new.pem)
    Path(configuration["system"]["privateKeyPath"]).write_text(new.private_key)

    iot.update_certificate(certificateId=old.rpartition("/")[2], newStatus="REVOKED")
    deployment = deploy(small_twin, "ring", "1.0.0", "sleep 600")

    wait_until(lambda: status_of(greengrass, "device-01", deployment) == "SUCCEEDED", 60)
    assert pids(small_twin)["device-01"] == process


def test_fewer_devices_means_that_the_others_leave(small_twin: TwinState) -> None:
    set_own_devices(small_twin, 2, group=None, dialect="lite")
    wait_until(lambda: all(pids(small_twin).values()))
    gone = pids(small_twin)["device-02"]

    set_own_devices(small_twin, 1, group=None, dialect="lite")

    assert list(pids(small_twin)) == ["device-01"]
    assert gone is not None
    wait_until(lambda: not psutil.pid_exists(gone))  # the cloud's process is its parent
    assert inventory.take(small_twin)["things"] == ["device-01"]

    set_own_devices(small_twin, 0, group=None, dialect="lite")

    assert inventory.is_empty(inventory.take(small_twin))


@pytest.mark.parametrize(("count", "dialect"), [(-1, "lite"), (101, "lite"), (1, "heavy")])
def test_a_value_that_makes_no_sense_is_refused(tmp_path: Path, count: int, dialect: str) -> None:
    state = TwinState(tmp_path, 1, 0.0, 1, 2, 3, 4, 5, "us-east-1", "000000000000", "secret")

    with pytest.raises(TwinError, match="must be"):
        set_own_devices(state, count, group=None, dialect=dialect)


def test_a_device_fails_on_command_and_recovers(small_twin: TwinState) -> None:
    greengrass = boto3.client("greengrassv2", **small_twin.client_arguments())
    set_own_devices(small_twin, 1, group="ring-a", dialect="lite")
    wait_until(lambda: greengrass.list_core_devices()["coreDevices"])
    root = device_roots(small_twin.home)["device-01"]

    def do(fault: str, component: str = "com.example.Hello") -> str:
        return faults.do(small_twin, "device-01", fault, component)

    def component() -> int:
        pid = device_pid(root)
        for child in psutil.Process(pid).children() if pid else []:
            with contextlib.suppress(psutil.NoSuchProcess):  # one that has just been killed
                if child.cwd().endswith("com.example.Hello"):
                    return child.pid
        return 0

    def succeeded(version: str) -> None:
        deployment = deploy(small_twin, "ring-a", version, "sleep 600")
        wait_until(lambda: status_of(greengrass, "device-01", deployment) == "SUCCEEDED", 60)

    succeeded("1.0.0")
    before = wait_until(component)
    assert "starts it again" in do("kill-component")
    wait_until(lambda: component() not in (0, before))
    with pytest.raises(TwinError, match=r"component com\.example\.Other must run on device-01, .* com\.example\.Hello"):
        do("kill-component", "com.example.Other")

    assert "stands for the full disk" in do("fill-disk")
    failed = deploy(small_twin, "ring-a", "1.1.0", "sleep 600")
    wait_until(lambda: status_of(greengrass, "device-01", failed) == "FAILED", 60)
    assert "can write again" in do("free-disk")
    succeeded("1.2.0")

    assert re.search(r": [1-9]\d* connections were ended", do("cut-network"))
    assert (root / CUT_OFF).exists()
    missed = deploy(small_twin, "ring-a", "1.3.0", "sleep 600")
    log = root / "log" / "core_device.log"
    wait_until(lambda: "refused CONNECT" in log.read_text(), 60)
    assert status_of(greengrass, "device-01", missed) == "QUEUED"
    assert "may connect again" in do("restore-network")
    wait_until(lambda: status_of(greengrass, "device-01", missed) == "SUCCEEDED", 90)

    running = device_pid(root)
    assert "starts it again" in do("kill")
    wait_until(lambda: device_pid(root) not in (None, running))
    wait_until(component)
