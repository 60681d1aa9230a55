"""Fleet indexing is switched on where it is off, and off by the last fleet; claim certificates go with the fleet."""

from typing import Any

import pytest

from edge_handlers.fleet_provisioning import on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers.event import Context, create, delete, update
from tests.handlers.fake_iot import FakeIot

CAPABILITY, POLICY = "fleet_provisioning", "edgewright-dev-claim"
ON = "edgewright-dev/indexing"
FIELD = {"name": "attributes.edgewright-registry", "type": "String"}
OURS = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS", "customFields": [FIELD]}
THEIRS = {"thingIndexingMode": "REGISTRY_AND_SHADOW", "customFields": [{"name": "attributes.site", "type": "String"}]}


def changes(iot: FakeIot) -> list[Any]:
    return [call["thingIndexingConfiguration"] for call in iot.called("update_indexing_configuration")]


@pytest.fixture
def alone(iot: FakeIot) -> FakeIot:
    iot.groups = {"edgewright-dev": set(), "edgewright-dev-canary": set(), "somebody-elses": set()}
    iot.policies[POLICY] = set()
    return iot


def use(iot: FakeIot, things: dict[str, Any]) -> None:
    iot.indexing = {"thingIndexingConfiguration": things}


def test_create_switches_indexing_on_with_connectivity(alone: FakeIot) -> None:
    assert on_event(create(CAPABILITY), Context()) == {"PhysicalResourceId": ON}
    assert changes(alone) == [OURS]
    assert alone.indexing["thingGroupIndexingConfiguration"] == {"thingGroupIndexingMode": "ON"}


@pytest.mark.parametrize("things", [OURS, THEIRS])
def test_create_leaves_indexing_alone_where_it_is_on(alone: FakeIot, things: dict[str, Any]) -> None:
    use(alone, things)

    assert on_event(create(CAPABILITY), Context()) == {"PhysicalResourceId": ON}
    assert changes(alone) == []


def test_update_repairs_indexing_and_keeps_the_id(alone: FakeIot) -> None:
    assert on_event(update(CAPABILITY, ON), Context()) == {"PhysicalResourceId": ON}
    assert changes(alone) == [OURS]


def test_update_to_another_group_is_a_replacement_whose_delete_changes_nothing(alone: FakeIot) -> None:
    alone.groups["edgewright-new"] = set()
    on_event(create(CAPABILITY), Context())

    answer = on_event(update(CAPABILITY, ON, ThingGroupName="edgewright-new"), Context())
    on_event(delete(CAPABILITY, ON), Context())

    assert answer == {"PhysicalResourceId": "edgewright-new/indexing"}
    assert changes(alone) == [OURS]


def test_the_last_fleet_switches_off_what_a_fleet_switched_on(alone: FakeIot) -> None:
    use(alone, OURS)

    assert on_event(delete(CAPABILITY, ON), Context()) == {"PhysicalResourceId": ON}
    assert on_event(delete(CAPABILITY, ON), Context()) == {"PhysicalResourceId": ON}

    assert changes(alone) == [{"thingIndexingMode": "OFF"}]


@pytest.mark.parametrize("first", ["dev", "prod"])
def test_of_two_fleets_the_last_one_switches_off_whichever_switched_on(alone: FakeIot, first: str) -> None:
    second = {"dev": "prod", "prod": "dev"}[first]
    fleets = {stage: {"ThingGroupName": f"edgewright-{stage}", "RingGroupNames": []} for stage in (first, second)}
    alone.groups = {f"edgewright-{stage}": set() for stage in fleets}
    for properties in fleets.values():
        on_event(create(CAPABILITY, **properties), Context())

    on_event(delete(CAPABILITY, f"edgewright-{first}/indexing", **fleets[first]), Context())
    assert changes(alone) == [OURS]
    del alone.groups[f"edgewright-{first}"]
    on_event(delete(CAPABILITY, f"edgewright-{second}/indexing", **fleets[second]), Context())

    assert changes(alone) == [OURS, {"thingIndexingMode": "OFF"}]


def test_delete_leaves_indexing_on_for_another_fleet(alone: FakeIot) -> None:
    use(alone, OURS)
    alone.groups["edgewright-prod"] = set()

    on_event(delete(CAPABILITY, ON), Context())

    assert changes(alone) == []


def test_delete_leaves_indexing_on_that_somebody_else_switched_on(alone: FakeIot) -> None:
    use(alone, THEIRS)

    on_event(delete(CAPABILITY, ON), Context())

    assert changes(alone) == []


def test_delete_takes_every_claim_certificate_away_and_no_device(alone: FakeIot) -> None:
    claims = [alone.provision(f"claim-{number}", policy=POLICY) for number in range(3)]
    device = alone.provision("device")

    on_event(delete(CAPABILITY, ON), Context())
    on_event(delete(CAPABILITY, ON), Context())

    assert set(alone.certificates) == {device}
    assert alone.policies[POLICY] == set()
    assert len(claims) == 3


def test_delete_where_the_policy_is_gone_succeeds(alone: FakeIot) -> None:
    del alone.policies[POLICY]

    on_event(delete(CAPABILITY, ON), Context())


def test_a_delete_after_a_failed_create_succeeds(alone: FakeIot) -> None:
    on_event(delete(CAPABILITY, "AWSCDK::CustomResourceProviderFramework::CREATE_FAILED"), Context())

    assert changes(alone) == []


@pytest.mark.parametrize("name", ["PolicyName", "ThingGroupName", "RingGroupNames", "GroupPrefix"])
def test_a_missing_property_is_named(alone: FakeIot, name: str) -> None:
    with pytest.raises(ValueError, match=f"ResourceProperties.{name} (is required|must be a list)"):
        on_event(create(CAPABILITY, **{name: None}), Context())
    assert alone.calls == []


def test_a_refused_call_says_what_was_being_done(alone: FakeIot) -> None:
    alone.refuse("update_indexing_configuration", "UnauthorizedException")

    with pytest.raises(AwsCallError, match=r"cannot switch fleet indexing on: .*UnauthorizedException"):
        on_event(create(CAPABILITY), Context())
