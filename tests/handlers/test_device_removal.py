import time
from typing import Any

import pytest

from edge_handlers.answering import CALLED_OFF
from edge_handlers.certificates import PolicyInUseError
from edge_handlers.device_list import OWNER
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.registry_events import GROUP, ID, SERVER, Registry

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


def test_delete_leaves_nothing(registry: Registry, fleet: FakeIot, greengrass: FakeGreengrass) -> None:
    greengrass.core_devices = {"line-1"}
    fleet.groups[CANARY].add("line-1")
    for name in ("one", "two", "three"):
        fleet.provision(name, "line-1")
    fleet.provision("one", policy="another-policy")

    assert registry.delete() == {"PhysicalResourceId": ID}

    assert (fleet.things, fleet.certificates, fleet.attached, greengrass.core_devices) == ({}, {}, set(), set())
    assert not any(fleet.groups.values())
    assert not any(fleet.policies.values())


def test_delete_deactivates_a_certificate_before_the_core_device_goes(
    registry: Registry, fleet: FakeIot, greengrass: FakeGreengrass
) -> None:
    certificate = fleet.provision("one", "line-1")
    statuses: list[str | None] = []
    delete_core_device = greengrass.delete_core_device

    def note(coreDeviceThingName: str) -> dict[str, Any]:  # noqa: N803
        if coreDeviceThingName == "line-1":
            statuses.append(fleet.certificates.get(certificate))
        return delete_core_device(coreDeviceThingName)

    greengrass.delete_core_device = note  # type: ignore[method-assign]
    registry.delete()

    assert statuses == [None], "a device that can still connect would make its core device anew"


def test_the_delete_of_a_creation_that_was_cancelled_leaves_nothing(registry: Registry, fleet: FakeIot) -> None:
    made_up = "edgewright-dev-Devices-1ABCDEF2GHIJK"

    assert registry.delete(made_up) == {"PhysicalResourceId": made_up}

    assert fleet.things == {}


def test_delete_again_succeeds(registry: Registry, fleet: FakeIot) -> None:
    registry.delete()
    fleet.policies.clear()

    assert registry.delete() == {"PhysicalResourceId": ID}


def test_a_removed_device_loses_its_certificate(registry: Registry, fleet: FakeIot) -> None:
    fleet.provision("one", "line-1")

    registry.update({SERVER: "all"})

    assert fleet.certificates == {}


def test_a_certificate_of_another_thing_too_is_only_detached(registry: Registry, fleet: FakeIot) -> None:
    fleet.things["machine"] = {"attributes": {}}
    shared = fleet.provision("shared", "line-1", "machine")

    registry.delete()

    assert fleet.certificates == {shared: "ACTIVE"}
    assert fleet.attached == {("machine", shared)}
    assert not fleet.policies["edgewright-dev-core-device"], "the stack deletes the policy next"


def test_a_certificate_of_two_devices_keeps_its_policy_until_the_last_goes(registry: Registry, fleet: FakeIot) -> None:
    shared = fleet.provision("shared", "line-1", SERVER)

    registry.update({SERVER: "all"})
    assert fleet.policies["edgewright-dev-core-device"] == {shared}
    registry.delete()

    assert fleet.certificates == {}


def test_a_principal_that_is_no_certificate_is_only_detached(registry: Registry, fleet: FakeIot) -> None:
    fleet.attached.add(("line-1", "eu-west-1:cognito-identity"))

    registry.delete()

    assert fleet.attached == set()
    assert not fleet.called("delete_certificate")


def test_certificates_that_were_never_attached_are_found_by_the_policy(registry: Registry, fleet: FakeIot) -> None:
    for name in ("one", "two", "three"):
        fleet.provision(name)

    registry.delete()

    assert fleet.certificates == {}


def test_a_change_that_has_not_settled_is_waited_for(
    registry: Registry, fleet: FakeIot, greengrass: FakeGreengrass
) -> None:
    fleet.provision("one", "line-1")
    greengrass.core_devices = {"line-1"}
    fleet.refuse("delete_certificate", "DeleteConflictException", times=2)
    fleet.refuse("delete_thing", "InvalidRequestException", times=2)
    greengrass.refuse("delete_core_device", "ConflictException", times=2)

    registry.delete()

    assert (fleet.things, fleet.certificates, greengrass.core_devices) == ({}, {}, set())


def test_a_certificate_that_cannot_be_deleted_stays_with_its_thing_so_that_a_retry_finds_it(
    registry: Registry, fleet: FakeIot
) -> None:
    fleet.provision("one", "line-1")
    fleet.refuse("delete_certificate", "DeleteConflictException", times=6)

    with pytest.raises(AwsCallError, match=r"cannot remove device line-1: .*DeleteConflictException"):
        registry.delete()
    registry.delete()

    assert (fleet.things, fleet.certificates) == ({}, {})


@pytest.mark.parametrize(
    "call",
    ["list_attached_policies", "detach_policy", "update_certificate", "detach_thing_principal", "delete_certificate"],
)
def test_a_certificate_that_vanishes_on_the_way_is_fine(registry: Registry, fleet: FakeIot, call: str) -> None:
    certificate = fleet.provision("one", SERVER)
    fleet.before(call, lambda: fleet.lose_certificate(certificate))

    assert registry.delete() == {"PhysicalResourceId": ID}
    assert (fleet.things, fleet.certificates) == ({}, {})


@pytest.mark.parametrize(
    "call",
    [
        "list_thing_principals",
        "detach_thing_principal",
        "list_thing_groups_for_thing",
        "remove_thing_from_thing_group",
        "delete_thing",
    ],
)
def test_a_thing_that_vanishes_on_the_way_is_fine(registry: Registry, fleet: FakeIot, call: str) -> None:
    fleet.provision("one", SERVER)
    fleet.before(call, lambda: fleet.lose_thing(SERVER))

    assert registry.delete() == {"PhysicalResourceId": ID}
    assert (fleet.things, fleet.certificates) == ({}, {})


def test_a_dynamic_group_lets_go_by_itself(registry: Registry, fleet: FakeIot) -> None:
    fleet.refuse("remove_thing_from_thing_group", "InvalidRequestException")

    registry.delete()

    assert fleet.things == {}


@pytest.mark.parametrize("code", ["AccessDeniedException", "ValidationException", "UnauthorizedException"])
def test_other_refusals_name_the_device(
    registry: Registry, fleet: FakeIot, greengrass: FakeGreengrass, code: str
) -> None:
    greengrass.refuse("delete_core_device", code)

    with pytest.raises(AwsCallError, match=f"cannot remove device {SERVER}: .*{code}"):
        registry.delete()


def test_a_delete_that_runs_out_of_time_is_not_complete_and_the_next_call_goes_on(
    registry: Registry, fleet: FakeIot
) -> None:
    from edge_handlers.device_registry import is_complete

    request = event.delete("device_registry", ID)

    assert is_complete(request, Context(1)) == {"IsComplete": False}
    assert is_complete(request, Context(300)) == {"IsComplete": True}
    assert fleet.things == {}


def test_a_delete_waits_for_the_last_question_of_an_event_that_was_called_off(
    registry: Registry, fleet: FakeIot
) -> None:
    from edge_handlers.device_registry import is_complete

    request = event.delete("device_registry", ID)

    assert is_complete({**request, CALLED_OFF: time.time() - 30}, Context()) == {"IsComplete": False}
    assert fleet.calls == []
    assert is_complete({**request, CALLED_OFF: time.time() - 301}, Context()) == {"IsComplete": True}


def test_a_thing_that_is_only_a_member_of_a_group_leaves_it_and_nothing_else(
    registry: Registry, fleet: FakeIot, greengrass: FakeGreengrass
) -> None:
    fleet.things["foreign"] = {"thingTypeName": "", "attributes": {"site": "north"}}
    fleet.groups["edgewright-dev-canary"].add("foreign")
    certificate = fleet.provision("of-foreign", "foreign", policy="theirs")
    greengrass.core_devices.add("foreign")

    registry.delete()

    assert fleet.things == {"foreign": {"thingTypeName": "", "attributes": {"site": "north"}}}
    assert "foreign" not in fleet.groups["edgewright-dev-canary"]
    assert fleet.certificates == {certificate: "ACTIVE"}
    assert fleet.attached == {("foreign", certificate)}
    assert greengrass.core_devices == {"foreign"}


def test_a_thing_that_another_registry_has_taken_over_meanwhile_leaves_the_groups_and_nothing_else(
    registry: Registry, fleet: FakeIot
) -> None:
    certificate = fleet.provision("one", SERVER)
    marks = {OWNER: "edgewright-other"}
    # Between the look at the register and the removal.
    fleet.before("describe_thing", lambda: fleet.things[SERVER].update(attributes=marks))

    registry.delete()

    assert {name: thing["attributes"] for name, thing in fleet.things.items()} == {SERVER: marks}
    assert fleet.certificates == {certificate: "ACTIVE"}
    assert not any(fleet.groups.values())


@pytest.mark.parametrize(
    "target", ["arn:aws:iot:eu-west-1:111122223333:thinggroup/plant", "eu-west-1:7d1f0d3e-0000-4000-8000-000000000000"]
)
def test_a_policy_on_what_is_no_certificate_is_named_before_anything_goes(
    registry: Registry, fleet: FakeIot, target: str
) -> None:
    fleet.policies["edgewright-dev-core-device"].add(target)
    things = dict(fleet.things)

    with pytest.raises(PolicyInUseError, match=f"it is to {target}: aws iot detach-policy --policy-name .*{target}'"):
        registry.delete()

    assert fleet.things == things


def test_a_policy_on_the_certificate_of_somebody_elses_thing_is_named(registry: Registry, fleet: FakeIot) -> None:
    fleet.things["foreign"] = {"thingTypeName": "", "attributes": {}}
    certificate = fleet.provision("of-foreign", "foreign")

    with pytest.raises(PolicyInUseError, match=f"it is to {certificate} of foreign: aws iot detach-policy"):
        registry.delete()

    assert set(fleet.things) == {"foreign"}
    assert fleet.certificates == {certificate: "ACTIVE"}
