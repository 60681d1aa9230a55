"""Things, their rings and the register of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from aws_cdk.assertions import Template

from config.loader import load_stage
from edge_constructs.synth import new_app, read_context
from stacks.edge_server_stack import EdgeServerStack
from stacks.fleet_stack import FleetStack
from stacks.identity_stack import IdentityStack
from stacks.stage_stack import StorageStack
from tests.synthesis import assembly, resources
from tests.wheel_archive import wheel_archive


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

    # And while the function that waits for them may still be asked for.
    assert needed == {"ThingGroup", "CanaryThingGroup", "EarlyThingGroup", "ThingType", "RegistryHandlerWaiter"}


def test_the_list_is_an_asset_of_the_stack() -> None:
    sha256 = registry("twin")["Properties"]["ListSha256"]
    (manifest,) = Path(assembly("twin")).glob("Fleet.assets.json")

    assert sha256 in json.loads(manifest.read_text())["files"]


def test_an_edge_server_that_the_list_makes_a_canary_joins_that_ring_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stacks.fleet_stack.runtime_archive", wheel_archive)
    (tmp_path / "devices.csv").write_text("device,ring\nedgewright-lab-edge-server,canary\n")
    (tmp_path / "lab.toml").write_text(
        'region = "eu-west-1"\n[[models]]\nfolder = "digits"\n[fleet]\nfile = "devices.csv"\n'
    )
    stage = load_stage("lab", tmp_path)
    app = new_app(read_context(), outdir=tmp_path / "out")
    storage = StorageStack(app, "Storage", stage=stage)
    identity = IdentityStack(app, "Identity", stage=stage, storage=storage)
    fleet = FleetStack(app, "Fleet", stage=stage, identity=identity, storage=storage)
    server = EdgeServerStack(app, "EdgeServer", stage=stage, storage=storage, identity=identity, fleet=fleet)

    groups = [
        each["Properties"]["Environment"]["Variables"]["THING_GROUP"]
        for each in Template.from_stack(server).to_json()["Resources"].values()
        if "THING_GROUP" in each.get("Properties", {}).get("Environment", {}).get("Variables", {})
    ]
    assert groups == ["edgewright-lab-canary"]
    assert ":thinggroup/edgewright-lab-canary" in json.dumps(Template.from_stack(server).to_json())
    (listed,) = Path(tmp_path / "out").rglob("devices/*.json")
    assert json.loads(listed.read_text()) == {"edgewright-lab-edge-server": "canary"}
