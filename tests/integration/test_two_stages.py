"""Two stages share an account: neither sees the other, and whatever is in the way of a destroy, nothing is left.

The tests run in this order, on one twin.
"""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from config.names import Names
from tests.app_copy import copy_app
from tools import inventory as stage_inventory
from tools.offline_deploy import OfflineDeploy
from twin import inventory, lifecycle
from twin.state import TwinState

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(900)]
LAB = Names("lab")
VERSIONS = 10_000


@dataclass
class Shared:
    """A twin with the stages `twin` and `lab`, both deployed."""

    app: Path
    state: TwinState
    twin: OfflineDeploy
    lab: OfflineDeploy

    def client(self, service: str) -> Any:
        return boto3.client(service, **self.state.client_arguments())

    def left(self) -> list[str]:
        """Everything in the account but the bootstrap."""
        found = inventory.take(self.state)
        return [f"{kind} {name}" for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names]


def write_lab(app: Path) -> None:
    """A stage of one model, with the switches that AWS has retired."""
    text = (app / "config" / "twin.toml").read_text()
    head, _, rest = text.partition("[[models]]\n")
    # What follows is about models that this stage has not.
    sections = rest.partition("[runtime]")[2].partition("[observability.models.")[0]
    model = '[[models]]\nfolder = "digits"\ncompiler = "neo"\npackager = "edge-manager"\n'
    fleet = '[fleet]\nfile = "lab.csv"\nregistry = "sagemaker"\n'
    (app / "config" / "lab.toml").write_text(f"{head}{model}\n{fleet}\n[runtime]{sections}")
    (app / "config" / "lab.csv").write_text("device,ring\nline-1,canary\nline-2,early\n")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("shared")
    app = copy_app(folder / "app")
    write_lab(app)
    state = lifecycle.start(folder / "twin", auth=True)
    try:
        both = {
            stage: OfflineDeploy(environment=state.environment(), out=folder / stage, app=app, stage=stage)
            for stage in ("twin", "lab")
        }
        for deploy in both.values():
            deploy.synth()
        both["twin"].bootstrap()
        for deploy in both.values():
            deploy.deploy()
        yield Shared(app, state, **both)
    finally:
        lifecycle.stop(folder / "twin")


@pytest.fixture
def of_stage(shared: Shared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run `python -m tools.inventory` with the twin as the account; returns exit code and answer."""
    for name, value in shared.state.environment().items():
        monkeypatch.setenv(name, value)
    folder = str(shared.app / "config")

    def run(stage: str) -> tuple[int, dict[str, list[str]]]:
        code = stage_inventory.main(["--stage", stage, "--config", folder, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_each_stage_is_told_apart_in_the_account(shared: Shared, of_stage: Any) -> None:
    whole = inventory.take(shared.state)
    (code, twin), (_, lab) = of_stage("twin"), of_stage("lab")

    assert code == 1
    assert lab["device fleets"] == [LAB.device_fleet]
    assert set(lab["things"]) == {LAB.edge_server, "line-1", "line-2"}
    for kind in {*twin, *lab}:
        assert not set(twin.get(kind, [])) & set(lab.get(kind, [])), kind
    theirs = {kind: sorted({*twin.get(kind, []), *lab.get(kind, [])}) for kind in {*twin, *lab}}
    # Of the rest of the account it says nothing: the bootstrap.
    rest = {kind: names for kind, names in whole.items() if theirs.get(kind) != names and kind != inventory.BOOTSTRAP}
    # EC2 makes a VPC's first group and table without tags; the twin hands no stack's tags on to what EC2 launches.
    # Fleet indexing is a setting of the account.
    of_ec2 = {"security groups", "route tables", "instances", "volumes", "launch templates"}
    assert set(rest) <= {*of_ec2, "fleet indexing"}
    assert set(theirs) <= set(whole)


def test_a_device_fleet_holds_the_things_of_the_list(shared: Shared) -> None:
    found = shared.client("sagemaker").list_devices(DeviceFleetName=LAB.device_fleet)["DeviceSummaries"]

    assert {device["DeviceName"]: device["IotThingName"] for device in found} == {
        name: name for name in (LAB.edge_server, "line-1", "line-2")
    }


def test_a_destroyed_stage_leaves_the_other_one_alone(shared: Shared, of_stage: Any) -> None:
    _, before = of_stage("lab")

    shared.twin.destroy()

    assert of_stage("twin") == (0, {})
    code, after = of_stage("lab")
    assert (code, {kind: names for kind, names in after.items() if before[kind] != names}) == (1, {})


def test_a_destroy_is_held_up_by_nothing(shared: Shared, of_stage: Any) -> None:
    certificate = _certificate_of_two_things(shared.client("iot"))
    _fill_bucket(shared)
    _stop_device(shared)
    running = _deployment_in_progress(shared)

    shared.lab.destroy()

    assert of_stage("lab") == (0, {})
    # What is somebody else's stays, without the stage's rights.
    iot = shared.client("iot")
    assert iot.list_principal_things(principal=certificate)["things"] == ["of-somebody-else"]
    assert iot.list_attached_policies(target=certificate)["policies"] == []
    assert shared.left() == ["things of-somebody-else", f"certificates {certificate.rpartition('/')[2]}"]
    with pytest.raises(shared.client("greengrassv2").exceptions.ResourceNotFoundException):
        shared.client("greengrassv2").get_deployment(deploymentId=running)


def _certificate_of_two_things(iot: Any) -> str:
    """Line 1 shares its certificate with a thing that is not the stage's."""
    certificate = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    iot.attach_policy(policyName=LAB.iot_policy, target=certificate)
    iot.create_thing(thingName="of-somebody-else")
    for thing in ("line-1", "of-somebody-else"):
        iot.attach_thing_principal(thingName=thing, principal=certificate)
    return str(certificate)


def _fill_bucket(shared: Shared) -> None:
    """Versions of the cheap kind: a marker for each object that was deleted, and a few that hold something.

    Of what expires, such as captures and old versions, the twin keeps the newest only.
    """
    bucket = LAB.artifact_bucket(shared.state.account, shared.state.region)
    s3 = shared.client("s3")
    for number in range(100):
        s3.put_object(Bucket=bucket, Body=b"{}", Key=f"kept/{number}.json")
    for batch in range(VERSIONS // 1000):
        keys = [{"Key": f"kept/{batch}/{number}.json"} for number in range(1000)]
        s3.delete_objects(Bucket=bucket, Delete={"Objects": keys})
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
    assert sum(len(page.get("Versions", [])) + len(page.get("DeleteMarkers", [])) for page in pages) > VERSIONS


def _stop_device(shared: Shared) -> None:
    """The edge server's device hangs: it is there, answers nothing and cannot be asked to end."""
    tags = [{"Name": "tag:Name", "Values": [LAB.edge_server]}]
    (reservation,) = shared.client("ec2").describe_instances(Filters=tags)["Reservations"]
    instance = reservation["Instances"][0]["InstanceId"]
    pid_file = shared.state.home / "instances" / instance / "core_device.pid"
    os.kill(int(json.loads(pid_file.read_text())["pid"]), signal.SIGSTOP)


def _deployment_in_progress(shared: Shared) -> str:
    """A deployment that no stack knows, which the device that hangs will never report."""
    greengrass = shared.client("greengrassv2")
    target = f"arn:aws:iot:{shared.state.region}:{shared.state.account}:thinggroup/{LAB.thing_group}"
    deployment = greengrass.create_deployment(targetArn=target, deploymentName="by-hand")["deploymentId"]
    assert greengrass.get_deployment(deploymentId=deployment)["deploymentStatus"] == "ACTIVE"
    return str(deployment)
