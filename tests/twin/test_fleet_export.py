"""`python -m tools.fleet_export`: what an account's devices are and run, without secrets, and files that are none."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import boto3
import pytest

from tests.rehearsal.rehearsed_assembly import device, write_fleet
from tests.twin.conftest import wait_until
from tools import fleet_export
from tools.fleet_export import FleetFileError, read_fleet
from twin import TwinError, lifecycle
from twin.devices.simulated_fleet import SimulatedDevice, set_devices
from twin.inventory import DEVICES_LIMIT, Account, Listing
from twin.simulation.profile import Profile

LIMIT_S = 60.0


def test_a_running_twins_devices_are_written_with_what_they_run_and_without_secrets(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = lifecycle.start(home)
    for name, value in state.environment().items():
        monkeypatch.setenv(name, value)
    iot = boto3.client("iot", **state.client_arguments())
    greengrass = boto3.client("greengrassv2", **state.client_arguments())
    out = tmp_path / "fleet.json"
    assert fleet_export.main(["--stage", "twin", "--out", str(out)]) == 1
    assert "stage twin must be deployed in us-east-1, it has no thing group edgewright-twin" in capsys.readouterr().err

    devices = [
        SimulatedDevice("line-1", "edgewright-twin-canary", "classic", "aarch64"),
        SimulatedDevice("line-2", "edgewright-twin", "lite", "amd64"),
    ]
    set_devices(state, devices, profile=Profile())
    iot.create_thing(thingName="line-3")
    iot.add_thing_to_thing_group(thingName="line-3", thingGroupName="edgewright-twin")
    wait_until(lambda: len(greengrass.list_core_devices()["coreDevices"]) == 2, LIMIT_S)
    recipe = {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": "plant.Camera",
        "ComponentVersion": "1.0.0",
        "Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": "sleep 600"}}],
    }
    greengrass.create_component_version(inlineRecipe=json.dumps(recipe).encode())
    group = iot.describe_thing_group(thingGroupName="edgewright-twin-canary")["thingGroupArn"]
    greengrass.create_deployment(targetArn=group, components={"plant.Camera": {"componentVersion": "1.0.0"}})

    def installed() -> bool:
        found = greengrass.list_installed_components(coreDeviceThingName="line-1", topologyFilter="ALL")
        return any(each["componentName"] == "plant.Camera" for each in found["installedComponents"])

    wait_until(installed, LIMIT_S)
    assert fleet_export.main(["--stage", "twin", "--out", str(out)]) == 0

    fleet = read_fleet(out)
    first, second, third = fleet.devices
    assert (first.thing, first.ring, first.nucleus, first.architecture) == ("line-1", "canary", "classic", "aarch64")
    assert (second.ring, second.nucleus, second.architecture) == ("all", "lite", "amd64")
    assert first.components["plant.Camera"] == "1.0.0"
    assert first.nucleus_version
    assert first.last_seen
    assert (third.thing, third.nucleus, third.last_seen) == ("line-3", None, None)
    assert fleet.groups == {"canary": "edgewright-twin-canary", "all": "edgewright-twin"}
    text = out.read_text()
    assert "arn:" not in text
    assert state.account not in text
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert fleet.text() == text


def broken(change: Callable[[dict[str, Any]], object], tmp_path: Path) -> Path:
    path = write_fleet(tmp_path / "fleet.json", [device("line-1", "all", "lite"), device("line-2", "canary")])
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda fleet: fleet.pop("schema"), "got one without a schema"),
        (lambda fleet: fleet.update(schema=2), "schema must be 1, got '2': export the fleet again"),
        (lambda fleet: fleet.update(schema="1"), "schema must be 1, got '1'"),
        (lambda fleet: fleet.update(devices={}), "devices: Input should be a valid"),
        (lambda fleet: fleet["devices"].append(fleet["devices"][0]), "devices must be listed once, line-1 are there"),
        (lambda fleet: fleet["groups"].pop("canary"), "groups must name the thing group of ring canary"),
        (lambda fleet: fleet["devices"][0].update(thing="../x"), "devices.0.thing: String should match pattern"),
        (lambda fleet: fleet["devices"][0].update(nucleus="heavy"), "devices.0.nucleus: Input should be 'lite'"),
        (lambda fleet: fleet["devices"][0].update(secret="x"), "devices.0.secret: Extra inputs are not permitted"),
        (lambda fleet: fleet["devices"].extend([{}] * 30), "and 50 more"),
        (lambda fleet: fleet.update(taken="2026-11-02T00:00:00"), "taken: Input should have timezone info"),
        (lambda fleet: fleet["devices"][0].update(last_seen="2026-11-02"), "devices.0.last_seen: Input should have"),
    ],
)
def test_a_file_with_mistakes_is_refused_with_place_rule_and_value(
    change: Callable[[dict[str, Any]], object], told: str, tmp_path: Path
) -> None:
    with pytest.raises(FleetFileError) as caught:
        read_fleet(broken(change, tmp_path))

    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "must be JSON, whole and in UTF-8"),
        (b'{"schema": 1, "devices": [', "must be JSON, whole and in UTF-8"),
        (b"\xff\xfe{}", "must be JSON, whole and in UTF-8"),
        (b"[" * 200_000, "must be JSON, whole and in UTF-8"),
        (b"[]", "got one without a schema"),
        (b'\xef\xbb\xbf{"schema": 1, "devices": [], "devices": []}', "each key may be there once, 'devices' is there"),
    ],
)
def test_what_is_no_fleet_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    path.write_bytes(content)

    with pytest.raises(FleetFileError, match=told):
        read_fleet(path)


def test_a_missing_and_a_huge_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    with pytest.raises(FleetFileError, match=r"must be a file of `python -m tools\.fleet_export`, got .*No such file"):
        read_fleet(path)
    with path.open("wb") as file:
        file.truncate(fleet_export.LIMIT_BYTES + 1)

    with pytest.raises(FleetFileError, match=r"must be at most 67,108,864 bytes, got 67,108,865"):
        read_fleet(path)


class Listed:
    """An account of one ring, whose one device was seen at a time and has a component."""

    def __init__(self, thing: str, seen: datetime, component: str = "plant.Camera") -> None:
        core = {"coreDeviceThingName": thing, "lastStatusUpdateTimestamp": seen, "status": "HEALTHY"}
        self._found: dict[str, list[Any]] = {
            "list_thing_groups": ["edgewright-twin"],
            "list_things_in_thing_group": [thing],
            "list_core_devices": [core],
            "get_core_device": ["2.6.0"],
            "list_installed_components": [[component, "1.0.0"]],
        }

    def names(self, listing: Listing) -> list[Any]:
        return self._found[listing.operation]


def test_a_fleet_is_not_taken_before_its_devices_were_seen() -> None:
    seen = datetime.now(UTC).replace(microsecond=0) + timedelta(days=9)  # of a quick twin's time

    fleet = fleet_export.export("twin", "us-east-1", Listed("line-1", seen), print)  # type: ignore[arg-type]

    assert fleet.taken == seen == fleet.devices[0].last_seen


@pytest.mark.parametrize(
    ("thing", "component", "told"),
    [
        ("t" * 128, "plant.Camera", f"thing {'t' * 128}: thing: String should have at most 124 characters, got 'ttt"),
        ("line-1", "plant Camera", "thing line-1: components.plant Camera.[key]: String should match pattern"),
    ],
)
def test_what_no_file_may_have_is_named_with_its_device(
    thing: str,
    component: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fleet_export, "Account", lambda *_: Listed(thing, datetime.now(UTC), component))
    out = tmp_path / "fleet.json"

    assert fleet_export.main(["--stage", "twin", "--out", str(out)]) == 1

    assert told in capsys.readouterr().err
    assert not out.exists()


def test_an_export_that_is_interrupted_or_cannot_be_written_says_so_before_the_account_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fleet_export, "export", interrupted)

    assert fleet_export.main(["--stage", "twin", "--out", str(tmp_path)]) == 1
    assert f"--out must be a file in a folder that exists, got {tmp_path}" in capsys.readouterr().err
    assert fleet_export.main(["--stage", "twin", "--out", str(tmp_path / "fleet.json")]) == 130
    assert capsys.readouterr().err == "fleet_export: interrupted, nothing is written\n"


class Paged:
    """A client whose listings have as many pages as it is told."""

    def __init__(self, pages: int) -> None:
        self._pages = pages

    def can_paginate(self, _operation: str) -> bool:
        return True

    def get_paginator(self, _operation: str) -> Paged:
        return self

    def paginate(self, **_arguments: Any) -> Any:
        return ({"things": [{"thingName": f"line-{number}"}]} for number in range(self._pages))


def test_a_listing_may_have_as_many_devices_as_a_file_however_small_its_pages_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    things, smallest = Listing("", "iot", "list_things", "things[].thingName"), 25
    pages = DEVICES_LIMIT // smallest
    monkeypatch.setattr(boto3, "client", lambda *_arguments, **_more: Paged(pages))
    assert len(Account({}).names(things)) == pages

    monkeypatch.setattr(boto3, "client", lambda *_arguments, **_more: Paged(pages + 1))
    with pytest.raises(TwinError, match=f"iot list_things must end within {pages} pages, it did not"):
        Account({}).names(things)


def test_a_file_that_no_rehearsal_would_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet_export, "Account", lambda *_: Listed("line-1", datetime.now(UTC)))
    monkeypatch.setattr(fleet_export, "LIMIT_BYTES", 100)
    out = tmp_path / "fleet.json"

    assert fleet_export.main(["--stage", "twin", "--out", str(out)]) == 1

    assert (
        "the fleet of stage twin must be at most 100 bytes, as a rehearsal reads them, got " in capsys.readouterr().err
    )
    assert not out.exists()


def test_more_devices_than_a_file_may_have_are_told_before_each_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_export, "DEVICES_LIMIT", 2)

    class Plant:
        def names(self, listing: Listing) -> list[str]:
            groups = {"list_thing_groups": ["edgewright-dev"], "list_things_in_thing_group": ["a", "b", "c"]}
            return groups[listing.operation]

    with pytest.raises(FleetFileError, match="stage dev must have at most 2 devices for a file, got 3"):
        fleet_export.export("dev", "eu-central-1", cast(Account, Plant()), lambda _text: None)
