"""`up --simulated N`: many core devices in one process, by the device's own protocol code."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import signal
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import psutil
import pytest

from tests.twin.conftest import wait_until
from twin import TwinError, cli, inventory, lifecycle
from twin.core_device.processes import InstanceLock
from twin.devices import membership, simulated_fleet
from twin.devices.membership import DEVICES_LOCK, set_own_devices
from twin.operator import OperatorClient
from twin.process import fleet_folder, open_files_limit
from twin.simulation import fleet as fleet_module
from twin.simulation.identities import CONFIG_FILE, IDENTITIES, STATUS_FILE, Identities, Identity, names, status
from twin.simulation.profile import Lot, Profile, read_profile
from twin.simulation.storage import Database, read_entries
from twin.state import TwinState
from twin.status import find_logs

COUNT, NAME, GROUP = 30, "com.example.Modelled", "many"
LIMIT_S = 120.0
FAILING = {
    "seed": 5,
    "dialects": {"lite": 0.8, "classic": 0.2},
    "components": [
        {
            "component": NAME,
            "versions": ">=2.0.0",
            "share": 0.2,
            "exit": {"after_s": 0.1, "status": 3, "output": "no camera"},
        },
        {
            "component": NAME,
            "memory_mb": 80,
            "answers": [{"topic": "many/{thing}/ask", "answer": "many/{thing}/said", "payload": {"digit": 7}}],
        },
    ],
}


@pytest.fixture
def small_twin(home: Path) -> TwinState:
    return lifecycle.start(home)


def recipe(version: str, bucket: str) -> bytes:
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": {"install": "true", "run": "sleep 600"},
        "Artifacts": [{"Uri": f"s3://{bucket}/weights.bin"}],
    }
    head = {"RecipeFormatVersion": "2020-01-25", "ComponentName": NAME, "ComponentVersion": version}
    return json.dumps({**head, "Manifests": [manifest]}).encode()


class Ring:
    """The thing group of all devices, and what is deployed to it."""

    def __init__(self, state: TwinState) -> None:
        arguments = state.client_arguments()
        self.greengrass, self.iot = boto3.client("greengrassv2", **arguments), boto3.client("iot", **arguments)
        self.target = f"arn:aws:iot:{state.region}:{state.account}:thinggroup/{GROUP}"
        s3 = boto3.client("s3", **arguments)
        s3.create_bucket(Bucket="many-artifacts")
        s3.put_object(Bucket="many-artifacts", Key="weights.bin", Body=bytes(100_000))

    def deploy(self, version: str) -> dict[str, str]:
        """Publish and deploy a version; how it ended, by thing."""
        self.greengrass.create_component_version(inlineRecipe=recipe(version, "many-artifacts"))
        components = {NAME: {"componentVersion": version}}
        job = self.greengrass.create_deployment(targetArn=self.target, components=components)["iotJobId"]

        def ended() -> dict[str, str] | None:
            pages = self.iot.get_paginator("list_job_executions_for_job").paginate(jobId=job)
            found = {
                each["thingArn"].rpartition("/")[2]: each["jobExecutionSummary"]["status"]
                for page in pages
                for each in page["executionSummaries"]
            }
            done = [thing for thing, state in found.items() if state in ("SUCCEEDED", "FAILED")]
            return found if len(done) == COUNT else None

        return dict(wait_until(ended, LIMIT_S))

    def devices(self) -> dict[str, str]:
        """Health by thing."""
        pages = self.greengrass.get_paginator("list_core_devices").paginate()
        return {each["coreDeviceThingName"]: each["status"] for page in pages for each in page["coreDevices"]}


def fleet(state: TwinState) -> dict[str, Any]:
    return status(state.home) or {}


def test_devices_of_one_process_join_deploy_fail_by_the_profile_survive_a_kill_and_leave_nothing(
    small_twin: TwinState,
) -> None:
    profile, ring = read_profile(FAILING), Ring(small_twin)
    things = simulated_fleet.set_count(small_twin, COUNT, group=GROUP, profile=profile)

    assert things == names(small_twin.home)
    wait_until(lambda: len(ring.devices()) == COUNT, LIMIT_S)
    runtimes = [
        ring.greengrass.get_core_device(coreDeviceThingName=thing).get("runtime", "")
        for thing in ("sim-0001", things[-1])
    ]
    expected = ["aws_nucleus_classic" if Lot(profile, t).dialect == "classic" else "aws_nucleus_lite" for t in things]
    assert runtimes == [expected[0], expected[-1]]

    first = ring.deploy("1.0.0")

    assert set(first.values()) == {"SUCCEEDED"}
    found = wait_until(lambda: (s := fleet(small_twin)).get("components", {}).get("RUNNING") == COUNT and s, LIMIT_S)
    assert (found["fetched_bytes"], found["counted_bytes"]) == (100_000, (COUNT - 1) * 100_000)
    assert found["modelled_memory_mb"] == COUNT * 80
    with OperatorClient(small_twin) as operator:
        answer = operator.request("many/sim-0001/ask", {}, "many/sim-0001/said", timeout_s=LIMIT_S)
    assert answer["digit"] == 7

    second = ring.deploy("2.0.0")

    drawn = {thing for thing in things if Lot(profile, thing).chance("share", 0, NAME, "2.0.0") < 0.2}
    assert {thing for thing, state in second.items() if state == "FAILED"} == drawn
    assert 0 < len(drawn) < COUNT
    broken = {thing for thing in drawn if Lot(profile, thing).dialect == "lite"}  # classic rolls back
    wait_until(lambda: {t for t, health in ring.devices().items() if health == "UNHEALTHY"} == broken, LIMIT_S)
    reported = ring.greengrass.list_effective_deployments(coreDeviceThingName=min(drawn))["effectiveDeployments"]
    assert "FAILED" in reported[0]["reason"]

    pid = fleet(small_twin)["pid"]
    os.kill(pid, signal.SIGKILL)

    def came_back() -> bool:
        now = fleet(small_twin)
        return now.get("pid") != pid and now.get("connected") == COUNT

    wait_until(came_back, LIMIT_S)
    running = COUNT - len(broken)
    wait_until(lambda: fleet(small_twin)["components"].get("RUNNING", 0) >= running, LIMIT_S)

    simulated_fleet.set_count(small_twin, 3, group=GROUP, profile=profile)
    wait_until(lambda: fleet(small_twin).get("connected") == 3, LIMIT_S)
    assert set(ring.devices()) == set(things[:3])
    simulated_fleet.set_count(small_twin, 0, group=None, profile=profile)

    assert not fleet_folder(small_twin.home).exists()
    left = inventory.take(small_twin)
    assert not {"things", "certificates", "core devices", "role aliases", "IoT policies"} & left.keys()


@pytest.mark.parametrize("count", [-1, 10_001])
def test_a_number_out_of_range_is_refused(small_twin: TwinState, count: int) -> None:
    with pytest.raises(TwinError, match="--simulated must be from 0 to 10000"):
        simulated_fleet.set_count(small_twin, count, group=None, profile=Profile())


def test_what_began_to_join_and_was_interrupted_begins_anew(
    small_twin: TwinState, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile, asked = Profile(), []

    def fails(_state: TwinState, method: str, body: dict[str, Any], _what: str) -> dict[str, Any]:
        asked.append((method, len(body.get("requests", ()))))
        raise TwinError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr(simulated_fleet, "_ask", fails)
        with pytest.raises(TwinError, match="interrupted"):
            simulated_fleet.set_count(small_twin, 2, group=None, profile=profile)
    assert asked == [("POST", 2)]
    assert names(small_twin.home) == []

    simulated_fleet.set_count(small_twin, 2, group=None, profile=profile)

    assert names(small_twin.home) == ["sim-0001", "sim-0002"]
    wait_until(lambda: fleet(small_twin).get("connected") == 2, LIMIT_S)


@pytest.mark.parametrize("failure", [OSError("too many open files"), ExceptionGroup("tasks", [ValueError("no")])])
def test_a_device_that_cannot_begin_starts_again_and_one_of_its_name_stays(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "_RESTART_S", 0.0)
    fleet = fleet_module.Fleet.__new__(fleet_module.Fleet)
    fleet._devices, fleet._ended = {}, Counter()

    class Device:
        async def run(self) -> None:
            raise failure

    async def live(running: Any, device: Any) -> None:
        fleet._devices["line-1"] = SimpleNamespace(device=running, end_outages=lambda: None)  # type: ignore[assignment]
        await fleet._live("line-1", device)
        await asyncio.sleep(0.01)

    device = Device()
    asyncio.run(live(device, device))
    assert (fleet._devices, fleet._ended["line-1"]) == ({}, 1)

    another: Any = Device()
    asyncio.run(live(another, device))
    assert fleet._devices["line-1"].device is another


def test_devices_that_have_all_connected_are_out_of_the_collectors_sight_until_some_leave() -> None:
    fleet = fleet_module.Fleet.__new__(fleet_module.Fleet)
    fleet._devices, fleet._frozen = {}, 0
    before = gc.get_freeze_count()

    def add(name: str, *, connected: bool) -> asyncio.Event:
        event = asyncio.Event()
        if connected:
            event.set()
        running: Any = SimpleNamespace(device=SimpleNamespace(connection=SimpleNamespace(connected=event)))
        running.itself = running  # only a collection takes it
        fleet._devices[name] = running
        return event

    try:
        add("line-1", connected=True)
        second = add("line-2", connected=False)
        fleet._freeze()
        assert gc.get_freeze_count() == before
        second.set()
        fleet._freeze()
        assert gc.get_freeze_count() > before

        gone = weakref.ref(fleet._devices.pop("line-2").device.connection.connected)
        del second
        fleet._freeze()
        gc.collect()
        assert gone() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--simulated", "10001"), "--simulated must be from 0 to 10000, got 10001"),
        (("--simulated", "2", "--profile", "odd.toml"), "odd.toml: share: Extra inputs are not permitted"),
        (("--simulated", "2", "--profile", "none.toml"), "--profile must be a TOML file, got none.toml"),
        (("--devices", "-1"), "--devices must be from 0 to 100, got -1"),
        (("--devices", "1", "--dialect", "heavy"), "--dialect must be one of lite, classic, got 'heavy'"),
    ],
)
def test_what_is_refused_starts_no_twin(
    options: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWIN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(lifecycle, "start", lambda *_, **__: pytest.fail("a twin is started"))
    (tmp_path / "odd.toml").write_text("share = 1")

    with pytest.raises(SystemExit) as ended:
        cli.main(["up", *options])

    assert ended.value.code == 1
    assert told in capsys.readouterr().err
    assert not (tmp_path / "home").exists()


def test_two_ups_change_devices_one_after_the_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = TwinState(home, 1, 0.0, 1, 2, 3, 4, 5, "us-east-1", "0" * 12, "")
    monkeypatch.setattr(lifecycle, "START_LIMIT_S", 0.0)
    monkeypatch.setattr(lifecycle, "STOP_LIMIT_S", 0.0)
    monkeypatch.setattr(simulated_fleet, "Membership", lambda *_: pytest.fail("the other one is at work"))
    monkeypatch.setattr(membership, "Membership", lambda *_, **__: pytest.fail("the other one is at work"))

    with lifecycle.one_at_a_time(home, DEVICES_LOCK):
        with pytest.raises(TwinError, match="another `python -m twin up` or `down` must end first"):
            simulated_fleet.set_count(state, 1, group=None, profile=Profile())
        with pytest.raises(TwinError, match="another `python -m twin up` or `down` must end first"):
            set_own_devices(state, 1, group=None, dialect="lite")


def test_a_full_disk_is_one_to_the_devices_and_ends_none_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(tmp_path / "documents.db")
    database.write(tmp_path / "kept.json", "x" * 4000)
    database.commit()
    database._connection.execute("PRAGMA max_page_count = 8")
    fleet = fleet_module.Fleet.__new__(fleet_module.Fleet)
    fleet._settings, fleet._devices, fleet._unsaved, fleet._database = {}, {}, "", database
    fleet._folder = tmp_path / "gone"

    def write_many() -> None:
        for number in range(100):
            database.write(tmp_path / f"{number}.json", "x" * 4000)

    with pytest.raises(OSError, match=r"documents\.db cannot be written: database or disk is full"):
        write_many()
    fleet.status = dict  # type: ignore[method-assign]
    fleet._save(told=True)
    fleet._save(told=True)
    (tmp_path / "gone").mkdir()
    fleet._save(told=True)

    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert told[0].startswith("not saved: [Errno 2]")
    assert told[1] == "everything is saved again"
    assert database.read(tmp_path / "kept.json") == "x" * 4000
    database.close()


def test_a_fleet_begins_without_keys_and_downloads_of_a_killed_one(tmp_path: Path) -> None:
    settings = {"root_ca": "", "mqtt_port": 1, "profile": {}}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(settings))
    (tmp_path / "key-x1y2").write_text("private")
    (tmp_path / "downloads" / "tmp0").mkdir(parents=True)
    (tmp_path / "downloads" / "tmp0" / "object").write_text("half")

    fleet = fleet_module.Fleet(tmp_path)

    assert not list(tmp_path.glob("key-*"))
    assert not list((tmp_path / "downloads").iterdir())
    fleet._database.close()
    fleet._identities.close()


def test_what_a_fleet_said_before_it_ended_is_not_told_as_what_it_does(tmp_path: Path) -> None:
    folder = fleet_folder(tmp_path / "is it?")
    folder.mkdir(parents=True)
    identities = Identities(folder / IDENTITIES)
    identities.add([Identity("sim-0001", "", "key", "lite")])
    identities.certify({"sim-0001": "pem"})
    identities.close()
    (folder / CONFIG_FILE).write_text("{}")
    (folder / STATUS_FILE).write_text(json.dumps({"pid": os.getpid(), "devices": 9, "connected": 9}))

    assert status(tmp_path / "is it?") == {"devices": 0, "connected": 0, "wanted": 1}
    lock = InstanceLock(folder / "core_device.pid")
    lock.acquire()
    assert (status(tmp_path / "is it?") or {})["connected"] == 9
    lock.release()
    Database(folder / "documents.db").close()
    assert read_entries(folder) == {}
    (folder / "log").mkdir()
    (folder / "log" / "core_device.log").write_text("why it does not start")
    assert list(find_logs(tmp_path / "is it?", "fleet")) == ["fleet/core_device"]


def test_files_that_cannot_be_used_are_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    folder = fleet_folder(tmp_path)
    folder.mkdir()
    (folder / IDENTITIES).write_text("no database")
    with pytest.raises(
        TwinError, match=r"identities\.db must be the writable list of simulated devices, got: file is not"
    ):
        Identities(folder / IDENTITIES)
    (folder / CONFIG_FILE).write_text("{}")
    state = TwinState(tmp_path, os.getpid(), 0.0, 1, 2, 3, 4, 5, "us-east-1", "0" * 12, "")
    monkeypatch.setattr(cli, "_running", lambda: state)
    monkeypatch.setattr(cli, "load_state", lambda _home: state)
    monkeypatch.setattr(TwinState, "running", True)

    with pytest.raises(SystemExit) as ended:
        cli.main(["status"])

    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: the files of {tmp_path} must be readable and writable, got file is not a database:")


def test_the_cloud_and_what_it_starts_may_have_as_many_files_as_the_machine_allows(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1000), hard))  # what a shell often has
    try:
        state = lifecycle.start(home)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert psutil.Process(state.pid).rlimit(psutil.RLIMIT_NOFILE)[0] == open_files_limit()


def test_more_devices_than_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_fleet, "open_files_limit", lambda: 4096)

    simulated_fleet.check(3596)
    with pytest.raises(
        TwinError, match=r"--simulated must be at most 3596, got 3597: .* 4096 open files \(ulimit -Hn\)"
    ):
        simulated_fleet.check(3597)
