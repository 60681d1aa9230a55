"""The device registry brings IoT Core to what the list says."""

import hashlib
import re
from typing import Any

import pytest

from edge_handlers.custom_resource import Properties
from edge_handlers.device_list import ADOPTED, CLAIMED, OWNER, DeviceList, write_devices
from edge_handlers.device_registry import OwnershipError
from edge_handlers.device_registry import Registry as Contract
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.registry_events import DEVICES, GROUP, ID, LAB, SERVER, Registry, rings_of

CANARY = f"{GROUP}-canary"


@pytest.fixture
def registry(iot: FakeIot, greengrass: FakeGreengrass, s3: FakeS3) -> Registry:
    return Registry(s3)


@pytest.fixture
def fleet(registry: Registry, iot: FakeIot) -> FakeIot:
    """The two devices of the event, registered."""
    registry.create()
    iot.calls.clear()
    return iot


def test_create_makes_things_with_type_and_ring(registry: Registry, iot: FakeIot) -> None:
    answer = registry.create({SERVER: "all", "line-1": "canary"})

    assert answer == {"PhysicalResourceId": ID, "Data": {"Count": "2"}}
    assert iot.things == {
        name: {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: GROUP}} for name in (SERVER, "line-1")
    }
    assert (iot.groups[GROUP], iot.groups[CANARY]) == ({SERVER}, {"line-1"})


def test_thousands_of_devices_take_several_calls_and_each_goes_on_where_the_last_one_ended(
    registry: Registry, iot: FakeIot, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = {f"line-{number}": "all" for number in range(3000)}
    left = iter([True] * 1000 + [False])

    def is_over(self: Any, doing: str) -> None:
        from edge_handlers.service_client import DeadlineError

        if not next(left, True):
            raise DeadlineError(doing)

    monkeypatch.setattr("edge_handlers.service_client.Deadline.check", is_over)
    registry.create(devices)

    assert registry.polls > 1
    assert iot.groups[GROUP] == set(devices)
    assert len(iot.called("create_thing")) == 3000, "none is made twice"
    assert not iot.called("describe_thing"), "two calls a device, which AWS counts"


def test_a_duplicate_event_changes_nothing(registry: Registry, fleet: FakeIot) -> None:
    assert registry.create()["Data"] == {"Count": "2"}
    assert {name for name, _ in fleet.calls} == {"list_things", "list_things_in_thing_group"}


def test_a_thing_that_the_listing_has_not_yet_is_made_once_and_leaves_its_former_ring(
    registry: Registry, fleet: FakeIot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "list_things", lambda **_: {"things": []})

    registry.update({SERVER: "all", "line-1": "canary"})

    assert (fleet.groups[GROUP], fleet.groups[CANARY]) == ({SERVER}, {"line-1"})
    assert not fleet.called("update_thing")


def test_a_device_moves_to_another_ring(registry: Registry, fleet: FakeIot) -> None:
    registry.update({SERVER: "all", "line-1": "canary"})

    assert (fleet.groups[GROUP], fleet.groups[CANARY]) == ({SERVER}, {"line-1"})
    assert not fleet.called("create_thing")


@pytest.mark.parametrize("others", [0, 5])
@pytest.mark.parametrize("former", ["hand-made", ""])
def test_create_takes_in_a_thing_that_belongs_to_nobody_and_delete_lets_it_go_as_it_was(
    registry: Registry, iot: FakeIot, former: str, others: int
) -> None:
    attributes = {"site": "north", **{f"other-{number}": "1" for number in range(others if former else 0)}}
    iot.things["line-1"] = {"thingTypeName": former, "attributes": dict(attributes)}
    certificate = iot.provision("one", "line-1")

    registry.create()
    assert iot.things["line-1"] == {
        "thingTypeName": "edgewright-dev-core",
        "attributes": {**attributes, OWNER: GROUP, ADOPTED: former or "true"},
    }
    registry.delete()

    assert iot.things == {"line-1": {"thingTypeName": former, "attributes": attributes}}
    assert iot.certificates == {certificate: "ACTIVE"}
    assert not iot.policies["edgewright-dev-core-device"], "the stack deletes the policy next"
    assert not any(iot.groups.values())


def test_a_thing_whose_type_was_deprecated_meanwhile_is_let_go_without_one(registry: Registry, iot: FakeIot) -> None:
    iot.things["line-1"] = {"thingTypeName": "hand-made", "attributes": {"site": "north"}}
    registry.create()
    iot.deprecated.add("hand-made")

    registry.delete()

    assert iot.things == {"line-1": {"thingTypeName": "", "attributes": {"site": "north"}}}


def test_create_refuses_a_device_of_another_registry_and_its_rollback_leaves_that_alone(
    registry: Registry, iot: FakeIot
) -> None:
    iot.things["line-1"] = {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: LAB}}

    with pytest.raises(OwnershipError, match=f"device line-1 must belong to one registry, got one of .* {LAB}"):
        registry.create()
    registry.delete()

    assert list(iot.things) == ["line-1"]


def test_on_event_changes_nothing_because_nobody_would_undo_it(registry: Registry, iot: FakeIot) -> None:
    from edge_handlers.device_registry import on_event

    assert on_event(event.create("device_registry"), None) == {"PhysicalResourceId": ID}
    assert iot.calls == []


def test_update_in_place_adds_and_removes(registry: Registry, fleet: FakeIot) -> None:
    answer = registry.update({"line-2": "all", SERVER: "all"})

    assert answer == {"PhysicalResourceId": ID, "Data": {"Count": "2"}}
    assert set(fleet.things) == {SERVER, "line-2"}
    assert fleet.groups[GROUP] == {SERVER, "line-2"}


def test_an_update_touches_only_what_changed(registry: Registry, fleet: FakeIot) -> None:
    fleet.calls.clear()
    registry.update({**DEVICES, "line-2": "all"})

    assert {call["thingName"] for _name, call in fleet.calls if "thingName" in call} == {"line-2"}


def test_a_device_that_joined_by_claim_is_not_missed_in_the_list_and_goes_with_the_registry(
    registry: Registry, fleet: FakeIot
) -> None:
    fleet.things["new"] = {"thingTypeName": "edgewright-dev-core", "attributes": {OWNER: GROUP, CLAIMED: "true"}}

    registry.update({SERVER: "all"})
    assert set(fleet.things) == {SERVER, "new"}
    registry.delete()

    assert fleet.things == {}


def test_another_thing_type_reaches_every_device(registry: Registry, fleet: FakeIot) -> None:
    registry.update(ThingTypeName="edgewright-dev-core-2")

    assert {thing["thingTypeName"] for thing in fleet.things.values()} == {"edgewright-dev-core-2"}


def test_another_group_is_a_replacement_whose_delete_leaves_the_devices_alone(
    registry: Registry, fleet: FakeIot
) -> None:
    certificate = fleet.provision("one", "line-1")

    answer = registry.update(ThingGroupName=LAB, Rings=rings_of(LAB))
    registry.delete()

    assert answer["PhysicalResourceId"] == f"registry-{LAB}"
    assert set(fleet.things) == {SERVER, "line-1"}
    assert fleet.certificates == {certificate: "ACTIVE"}
    assert fleet.policies["edgewright-dev-core-device"] == {certificate}
    assert (fleet.groups[GROUP], fleet.groups[LAB]) == (set(), {SERVER, "line-1"})


def test_a_rollback_of_an_update_restores_the_list(registry: Registry, fleet: FakeIot) -> None:
    registry.update({SERVER: "all", "line-2": "canary"})

    registry.update()

    assert set(fleet.things) == {SERVER, "line-1"}


@pytest.mark.parametrize("old", [{"ThingGroupName": None}, {"Rings": None, "Devices": "line-1"}, {"ListKey": None}])
def test_old_properties_of_another_release_do_not_matter(
    registry: Registry, fleet: FakeIot, old: dict[str, Any]
) -> None:
    answer = registry.update({SERVER: "all"}, old=old)

    assert answer["PhysicalResourceId"] == ID
    assert set(fleet.things) == {SERVER}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "must be a JSON object of thing name to ring: Expecting value"),
        (b'["line-1"]', "must be a JSON object of thing name to ring, got "),
        (b'{"line-1": {"ring": "all"}}', "must be a JSON object of thing name to ring, got "),
        (b"\xff", "must be a JSON object of thing name to ring: "),
    ],
)
def test_a_file_that_is_no_list_of_devices_is_refused(
    content: bytes, says: str, registry: Registry, s3: FakeS3, iot: FakeIot
) -> None:
    sha256 = hashlib.sha256(content).hexdigest()
    s3.put("cdk-assets", sha256, content)

    with pytest.raises(ValueError, match=f"^s3://cdk-assets/{sha256} {re.escape(says)}"):
        registry.run(event.create("device_registry", ListKey=sha256, ListSha256=sha256))
    assert iot.calls == []


def test_what_the_construct_writes_is_what_the_handler_reads() -> None:
    content = write_devices({"line-2": "canary", "line-1": "all"})
    listing = DeviceList("cdk-assets", "key", hashlib.sha256(content).hexdigest())
    written = Contract("plant", {"canary": "plant-canary", "all": "plant"}, "core", "policy", listing)

    read = Contract.of(Properties(written.to_properties()))

    assert read == written
    assert read.checked(read.listing.parse(content)) == {"line-1": "all", "line-2": "canary"}


def test_a_missing_group_is_named(registry: Registry, iot: FakeIot) -> None:
    with pytest.raises(AwsCallError, match=r"cannot register device .*: .*group absent"):
        registry.create(ThingGroupName="absent", Rings='{"all": "absent"}')


def test_a_list_of_another_digest_is_refused(registry: Registry, iot: FakeIot) -> None:
    with pytest.raises(ValueError, match=r"sha-256 of s3://cdk-assets/.* must be 0000"):
        registry.run(event.create("device_registry", **{**registry.listed(DEVICES), "ListSha256": "0" * 64}))
    assert iot.calls == []


@pytest.mark.parametrize("name", ["", "a b", "a" * 125, "../x"])
def test_refuses_names_that_no_core_device_can_have(registry: Registry, iot: FakeIot, name: str) -> None:
    with pytest.raises(ValueError, match="must be names of 1 to 124"):
        registry.create({"line-1": "all", name: "all"})
    assert iot.calls == []


def test_refuses_a_ring_that_the_stack_does_not_have(registry: Registry, iot: FakeIot) -> None:
    with pytest.raises(ValueError, match="must be of canary, early, all, got late"):
        registry.create({"line-1": "late"})
    assert iot.calls == []
