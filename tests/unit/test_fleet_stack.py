"""Things, their group and the register of them."""

import pytest

from tests.synthesis import resources


@pytest.mark.parametrize(
    ("stage", "devices"),
    [
        ("twin", ["edgewright-twin-edge-server"]),
        ("prod", ["edgewright-prod-edge-server", "edgewright-prod-line-1", "edgewright-prod-line-2"]),
    ],
)
def test_one_resource_registers_the_edge_server_and_all_devices(stage: str, devices: list[str]) -> None:
    (registry,) = resources(stage, "Fleet", "Custom::DeviceRegistry")

    assert registry["Properties"]["Devices"] == devices
    assert registry["Properties"]["ThingGroupName"] == f"edgewright-{stage}"
    assert registry["Properties"]["PolicyName"] == f"edgewright-{stage}-core-device"


def test_devices_go_before_their_group_and_type() -> None:
    (registry,) = resources("twin", "Fleet", "Custom::DeviceRegistry")

    assert {name.rstrip("0123456789ABCDEF") for name in registry["DependsOn"]} == {"ThingGroup", "ThingType"}
