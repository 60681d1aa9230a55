from typing import Any

import pytest

from edge_handlers.device_registry.logic import OWNER, OwnershipError
from edge_handlers.device_registry.on_event import handler
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot

GROUP = "edgewright-dev"
CANARY = "edgewright-dev-canary"
ID = f"registry-{GROUP}"
SERVER = "edgewright-dev-edge-server"


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return handler(request, Context(seconds))


@pytest.fixture(autouse=True)
def services(iot: FakeIot, greengrass: FakeGreengrass) -> None:
    """Every event of the registry has both."""


@pytest.fixture
def fleet(iot: FakeIot) -> FakeIot:
    """The two devices of the event, registered."""
    run(event.create("device_registry"))
    iot.calls.clear()
    return iot


def test_create_makes_things_with_type_and_group(iot: FakeIot) -> None:
    answer = run(event.create("device_registry"))

    assert answer == {"PhysicalResourceId": ID, "Data": {"Count": "2"}}
    assert iot.things == {
        name: {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: GROUP}} for name in (SERVER, "line-1")
    }
    assert iot.groups[GROUP] == {SERVER, "line-1"}


def test_a_duplicate_event_and_a_repeated_name_change_nothing(fleet: FakeIot) -> None:
    answer = run(event.create("device_registry", Devices=["line-1", SERVER, "line-1"]))

    assert answer["Data"] == {"Count": "2"}
    assert not fleet.called("create_thing")
    assert not fleet.called("update_thing")


def test_create_takes_in_a_thing_that_belongs_to_nobody(iot: FakeIot) -> None:
    iot.things["line-1"] = {"thingTypeName": "hand-made", "attributes": {"site": "north"}}

    run(event.create("device_registry"))

    assert iot.things["line-1"] == {
        "thingTypeName": "edgewright-dev-core",
        "attributes": {"site": "north", OWNER: GROUP},
    }


def test_create_refuses_a_device_of_another_registry_and_takes_its_things_back(iot: FakeIot) -> None:
    iot.things["line-1"] = {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: CANARY}}

    with pytest.raises(OwnershipError, match=f"device line-1 must belong to one registry, got one of .* {CANARY}"):
        run(event.create("device_registry"))

    assert list(iot.things) == ["line-1"]


def test_a_create_that_fails_half_way_leaves_only_what_was_there(iot: FakeIot) -> None:
    iot.things["line-1"] = {"thingTypeName": "hand-made", "attributes": {}}
    iot.refuse("update_thing", "AccessDeniedException")

    with pytest.raises(AwsCallError, match=r"cannot register device line-1: .*AccessDenied"):
        run(event.create("device_registry"))

    assert list(iot.things) == ["line-1"]


def test_what_cannot_be_taken_back_does_not_hide_the_first_error(
    iot: FakeIot, caplog: pytest.LogCaptureFixture
) -> None:
    iot.things["line-2"] = {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: CANARY}}
    iot.refuse("delete_thing", "InternalFailureException")

    with pytest.raises(OwnershipError, match="line-2"):
        run(event.create("device_registry", Devices=["line-1", "line-2"]))

    assert "thing line-1 is left behind" in caplog.text


def test_update_in_place_adds_and_removes(fleet: FakeIot) -> None:
    answer = run(event.update("device_registry", ID, Devices=["line-2", SERVER]))

    assert answer == {"PhysicalResourceId": ID, "Data": {"Count": "2"}}
    assert set(fleet.things) == {SERVER, "line-2"}
    assert fleet.groups[GROUP] == {SERVER, "line-2"}


def test_an_update_looks_only_at_what_changed(fleet: FakeIot) -> None:
    run(event.update("device_registry", ID, Devices=[SERVER, "line-1", "line-2"]))

    assert {call["thingName"] for call in fleet.called("describe_thing")} == {"line-2"}


def test_another_thing_type_reaches_every_device(fleet: FakeIot) -> None:
    run(event.update("device_registry", ID, ThingTypeName="edgewright-dev-core-2"))

    assert {thing["thingTypeName"] for thing in fleet.things.values()} == {"edgewright-dev-core-2"}


def test_another_group_is_a_replacement_whose_delete_leaves_the_devices_alone(fleet: FakeIot) -> None:
    certificate = fleet.provision("one", "line-1")

    answer = run(event.update("device_registry", ID, ThingGroupName=CANARY))
    run(event.delete("device_registry", ID))

    assert answer["PhysicalResourceId"] == f"registry-{CANARY}"
    assert set(fleet.things) == {SERVER, "line-1"}
    assert fleet.certificates == {certificate: "ACTIVE"}
    assert fleet.policies["edgewright-dev-core-device"] == {certificate}
    assert (fleet.groups[GROUP], fleet.groups[CANARY]) == (set(), {SERVER, "line-1"})


def test_a_rollback_of_an_update_restores_the_list(fleet: FakeIot) -> None:
    run(event.update("device_registry", ID, Devices=[SERVER, "line-2"]))

    run(event.update("device_registry", ID, old={"Devices": [SERVER, "line-2"]}))

    assert set(fleet.things) == {SERVER, "line-1"}


def test_a_rollback_of_a_replacement_restores_the_group(fleet: FakeIot) -> None:
    run(event.update("device_registry", ID, ThingGroupName=CANARY))

    answer = run(event.update("device_registry", f"registry-{CANARY}", old={"ThingGroupName": CANARY}))
    run(event.delete("device_registry", f"registry-{CANARY}", ThingGroupName=CANARY))

    assert answer["PhysicalResourceId"] == ID
    assert (fleet.groups[GROUP], fleet.groups[CANARY]) == ({SERVER, "line-1"}, set())


@pytest.mark.parametrize("devices", [None, "line-1", ["line-1", 3]])
def test_old_properties_of_another_release_do_not_matter(fleet: FakeIot, devices: Any) -> None:
    answer = run(event.update("device_registry", ID, old={"Devices": devices, "ThingTypeName": None}))

    assert answer["PhysicalResourceId"] == ID
    assert set(fleet.things) == {SERVER, "line-1"}


def test_a_missing_group_is_named(iot: FakeIot) -> None:
    with pytest.raises(AwsCallError, match=f"cannot register device {SERVER}: .*group absent"):
        run(event.create("device_registry", ThingGroupName="absent"))


@pytest.mark.parametrize("name", ["", "a b", "a" * 125, "../x"])
def test_refuses_names_that_no_core_device_can_have(iot: FakeIot, name: str) -> None:
    with pytest.raises(ValueError, match="Devices must be"):
        run(event.create("device_registry", Devices=["line-1", name]))
    assert iot.calls == []
