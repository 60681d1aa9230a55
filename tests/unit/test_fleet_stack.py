"""Things, their rings and the register of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis import assembly, resources


def registry(stage: str) -> dict[str, Any]:
    (found,) = resources(stage, "Fleet", "Custom::DeviceRegistry")
    return found


def listed(stage: str) -> dict[str, str]:
    """The list that the registry's asset holds."""
    sha256 = registry(stage)["Properties"]["ListSha256"]
    content: dict[str, str] = json.loads((assembly(stage) / "artifacts" / "devices" / f"{sha256}.json").read_text())
    return content


@pytest.mark.parametrize(
    ("stage", "devices"),
    [
        ("twin", {"edgewright-twin-edge-server": "all"}),
        (
            "prod",
            {
                "edgewright-prod-edge-server": "all",
                "edgewright-prod-line-1": "canary",
                "edgewright-prod-line-2": "all",
            },
        ),
    ],
)
def test_one_resource_registers_the_edge_server_and_all_devices(stage: str, devices: dict[str, str]) -> None:
    assert listed(stage) == devices
    assert registry(stage)["Properties"]["ThingGroupName"] == f"edgewright-{stage}"
    assert registry(stage)["Properties"]["PolicyName"] == f"edgewright-{stage}-core-device"


def test_each_ring_is_a_thing_group() -> None:
    names = {group["Properties"]["ThingGroupName"] for group in resources("twin", "Fleet", "AWS::IoT::ThingGroup")}

    assert names == {"edgewright-twin", "edgewright-twin-canary", "edgewright-twin-early"}


def test_devices_go_before_their_groups_and_type() -> None:
    needed = {name.rstrip("0123456789ABCDEF") for name in registry("twin")["DependsOn"]}

    assert needed == {"ThingGroup", "CanaryThingGroup", "EarlyThingGroup", "ThingType"}


def test_the_list_is_an_asset_of_the_stack() -> None:
    sha256 = registry("twin")["Properties"]["ListSha256"]
    (manifest,) = Path(assembly("twin")).glob("Fleet.assets.json")

    assert sha256 in json.loads(manifest.read_text())["files"]
