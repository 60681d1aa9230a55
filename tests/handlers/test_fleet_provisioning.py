"""Fleet indexing is switched on where it is off, and off by the last fleet; claim certificates go with the fleet."""

from typing import Any

import pytest

from edge_handlers.fleet_provisioning.on_event import handler
from edge_handlers.service_client import AwsCallError
from tests.handlers.event import Context, create, delete, update
from tests.handlers.fake_iot import FakeIot

CAPABILITY, POLICY = "fleet_provisioning", "edgewright-dev-claim"
ON, FOUND = "edgewright-dev/switched-on", "edgewright-dev/found-on"
MODE = {"thingIndexingConfiguration": {"thingIndexingMode": "REGISTRY_AND_SHADOW"}}


def changes(iot: FakeIot) -> list[Any]:
    return [call["thingIndexingConfiguration"] for call in iot.called("update_indexing_configuration")]


@pytest.fixture
def alone(iot: FakeIot) -> FakeIot:
    iot.groups = {"edgewright-dev": set(), "edgewright-dev-canary": set(), "somebody-elses": set()}
    iot.policies[POLICY] = set()
    return iot


def test_create_switches_indexing_on_with_connectivity(alone: FakeIot) -> None:
    assert handler(create(CAPABILITY), Context()) == {"PhysicalResourceId": ON}
    assert changes(alone) == [{"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}]
    assert alone.indexing["thingGroupIndexingConfiguration"] == {"thingGroupIndexingMode": "ON"}


def test_create_leaves_indexing_alone_where_it_is_on(alone: FakeIot) -> None:
    alone.indexing = dict(MODE)

    assert handler(create(CAPABILITY), Context()) == {"PhysicalResourceId": FOUND}
    assert changes(alone) == []


@pytest.mark.parametrize("physical_id", [ON, FOUND])
def test_update_repairs_indexing_and_keeps_the_id(alone: FakeIot, physical_id: str) -> None:
    assert handler(update(CAPABILITY, physical_id), Context()) == {"PhysicalResourceId": physical_id}
    assert len(changes(alone)) == 1


def test_update_to_another_group_is_a_replacement_whose_delete_changes_nothing(alone: FakeIot) -> None:
    alone.groups["edgewright-new"] = set()
    handler(create(CAPABILITY), Context())

    answer = handler(update(CAPABILITY, ON, ThingGroupName="edgewright-new"), Context())
    handler(delete(CAPABILITY, ON), Context())

    assert answer == {"PhysicalResourceId": "edgewright-new/found-on"}
    assert len(changes(alone)) == 1


def test_the_last_fleet_switches_off_what_it_switched_on(alone: FakeIot) -> None:
    assert handler(delete(CAPABILITY, ON), Context()) == {"PhysicalResourceId": ON}
    assert changes(alone) == [{"thingIndexingMode": "OFF"}]


def test_delete_leaves_indexing_on_for_another_fleet(alone: FakeIot) -> None:
    alone.groups["edgewright-prod"] = set()

    handler(delete(CAPABILITY, ON), Context())

    assert changes(alone) == []


def test_delete_leaves_indexing_on_that_somebody_else_switched_on(alone: FakeIot) -> None:
    handler(delete(CAPABILITY, FOUND), Context())

    assert changes(alone) == []


def test_delete_takes_every_claim_certificate_away_and_no_device(alone: FakeIot) -> None:
    claims = [alone.provision(f"claim-{number}", policy=POLICY) for number in range(3)]
    device = alone.provision("device")

    handler(delete(CAPABILITY, FOUND), Context())
    handler(delete(CAPABILITY, FOUND), Context())

    assert set(alone.certificates) == {device}
    assert alone.policies[POLICY] == set()
    assert len(claims) == 3


def test_delete_where_the_policy_is_gone_succeeds(alone: FakeIot) -> None:
    del alone.policies[POLICY]

    handler(delete(CAPABILITY, FOUND), Context())


def test_a_delete_after_a_failed_create_succeeds(alone: FakeIot) -> None:
    handler(delete(CAPABILITY, "AWSCDK::CustomResourceProviderFramework::CREATE_FAILED"), Context())

    assert changes(alone) == []


@pytest.mark.parametrize("name", ["PolicyName", "ThingGroupName", "RingGroupNames", "GroupPrefix"])
def test_a_missing_property_is_named(alone: FakeIot, name: str) -> None:
    with pytest.raises(ValueError, match=f"ResourceProperties.{name} (is required|must be a list)"):
        handler(create(CAPABILITY, **{name: None}), Context())
    assert alone.calls == []


def test_a_refused_call_says_what_was_being_done(alone: FakeIot) -> None:
    alone.refuse("update_indexing_configuration", "UnauthorizedException")

    with pytest.raises(AwsCallError, match=r"cannot switch fleet indexing on: .*UnauthorizedException"):
        handler(create(CAPABILITY), Context())
