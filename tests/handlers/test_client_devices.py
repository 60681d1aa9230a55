"""The associations of client devices, brought to what the list says."""

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import pytest

from edge_handlers.answering import CALLED_OFF
from edge_handlers.client_devices import AssociationError, Associations, is_complete, listed, on_event
from edge_handlers.custom_resource import Properties
from edge_handlers.device_list import OWNER, DeviceList, write_devices
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_greengrass import FakeGreengrass
from tests.handlers.fake_iot import FakeIot
from tests.handlers.fake_s3 import FakeS3

GROUP = "edgewright-dev-clients"
ID = f"associations-{GROUP}"
LIST = {"core-1": {"camera-1", "camera-2"}, "core-2": {"camera-3"}}
CALLS = "batch_associate_client_device_with_core_device", "batch_disassociate_client_device_from_core_device"


class Stage:
    """Sends events, as the waiter does: on_event once, is_complete until it says so."""

    def __init__(self, s3: FakeS3, greengrass: FakeGreengrass, iot: FakeIot) -> None:
        self.s3, self.greengrass, self.iot = s3, greengrass, iot
        self.polls = 0

    def create(self, associations: Mapping[str, set[str]] = LIST, **changes: Any) -> Any:
        return self.run(event.create("client_devices", **self.put(associations), **changes))

    def update(self, new: Mapping[str, set[str]], old: Mapping[str, set[str]] = LIST, **changes: Any) -> Any:
        return self.run(event.update("client_devices", ID, old=self.put(old), **self.put(new), **changes))

    def delete(self, associations: Mapping[str, set[str]] = LIST, **changes: Any) -> Any:
        return self.run(event.delete("client_devices", ID, **self.put(associations), **changes))

    def put(self, associations: Mapping[str, set[str]]) -> dict[str, str]:
        """Put the list where the properties say, and its things on the register."""
        for name in {name for names in associations.values() for name in names}:
            self.iot.things.setdefault(name, {"thingTypeName": "", "attributes": {OWNER: GROUP}})
        content = write_devices(listed(associations))
        sha256 = hashlib.sha256(content).hexdigest()
        self.s3.put("cdk-assets", sha256, content)
        return {"ListKey": sha256, "ListSha256": sha256}

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        answer = on_event(request, Context(300))
        for self.polls in range(1, 30):
            polled = is_complete(event.poll(request, answer), Context(300))
            if polled.pop("IsComplete"):
                return {**answer, **polled}
        raise AssertionError("not complete after 30 polls")


@pytest.fixture
def stage(s3: FakeS3, greengrass: FakeGreengrass, iot: FakeIot) -> Stage:
    greengrass.associations = {"core-1": set(), "core-2": set()}
    return Stage(s3, greengrass, iot)


@pytest.fixture
def deployed(stage: Stage) -> Stage:
    stage.create()
    stage.greengrass.calls.clear()
    return stage


def made(stage: Stage) -> list[str]:
    return [name for name, _ in stage.greengrass.calls if name in CALLS]


def test_create_associates_and_again_changes_nothing(stage: Stage) -> None:
    assert stage.create() == {"PhysicalResourceId": ID, "Data": {"Count": "3", "Waiting": ""}}
    assert stage.greengrass.associations == LIST
    calls = len(made(stage))

    stage.create()

    assert len(made(stage)) == calls == 2


def test_update_adds_removes_and_leaves_what_is_somebody_elses(deployed: Stage) -> None:
    deployed.greengrass.associations["core-1"].add("foreign")
    deployed.iot.things["foreign"] = {"thingTypeName": "", "attributes": {}}

    deployed.update({"core-1": {"camera-1"}, "core-2": {"camera-2"}})

    assert deployed.greengrass.associations == {"core-1": {"camera-1", "foreign"}, "core-2": {"camera-2"}}


def test_a_core_that_leaves_the_list_loses_what_was_listed_and_no_more(deployed: Stage) -> None:
    deployed.iot.things["foreign"] = {"thingTypeName": "", "attributes": {}}
    deployed.iot.things["camera-3"]["attributes"] = {}  # was there before the stage, which has let go of it
    deployed.greengrass.associations["core-2"].add("foreign")

    deployed.update({"core-1": {"camera-1", "camera-2"}})

    assert deployed.greengrass.associations["core-2"] == {"foreign"}


def test_drift_is_mended(deployed: Stage) -> None:
    deployed.greengrass.associations["core-1"] = {"camera-2", "camera-3"}

    deployed.update(LIST)

    assert deployed.greengrass.associations == LIST


def test_a_rollback_is_an_update_back(deployed: Stage) -> None:
    new = {"core-1": {"camera-9"}}
    deployed.update(new)
    deployed.update(LIST, old=new)

    assert deployed.greengrass.associations == LIST


@pytest.mark.parametrize(
    "old", [{"ListKey": "gone", "ListSha256": "0" * 64}, {"ListKey": None}, {"ThingGroupName": None}]
)
def test_old_properties_that_cannot_be_read_are_done_without(deployed: Stage, old: dict[str, Any]) -> None:
    request = event.update("client_devices", ID, old=old, **deployed.put({"core-1": {"camera-1"}}))

    deployed.run(request)

    assert deployed.greengrass.associations["core-1"] == {"camera-1"}


def test_delete_takes_ours_and_again_takes_nothing(deployed: Stage) -> None:
    deployed.greengrass.associations["core-1"].add("foreign")
    deployed.iot.things["foreign"] = {"thingTypeName": "", "attributes": {}}

    for _ in range(2):
        assert deployed.delete() == {"PhysicalResourceId": ID}
        assert deployed.greengrass.associations == {"core-1": {"foreign"}, "core-2": set()}
    del deployed.greengrass.associations["core-1"]
    deployed.delete()


def test_delete_passes_over_things_that_are_gone(deployed: Stage) -> None:
    deployed.greengrass.gone_clients = {"camera-1"}

    assert deployed.delete() == {"PhysicalResourceId": ID}
    assert deployed.greengrass.associations == {"core-1": set(), "core-2": set()}


def test_a_delete_waits_for_the_last_question_of_an_event_that_was_called_off(deployed: Stage) -> None:
    request = event.delete("client_devices", ID, **deployed.put(LIST))

    assert is_complete({**request, CALLED_OFF: time.time() - 30}, Context()) == {"IsComplete": False}
    assert deployed.greengrass.associations == LIST
    assert is_complete({**request, CALLED_OFF: time.time() - 301}, Context()) == {"IsComplete": True}


@pytest.mark.parametrize("made_up", ["edgewright-dev-ClientDevices-1ABCDEF2GHIJK", "3f2c1a90-5d7e"])
def test_the_delete_of_a_creation_that_was_cancelled_takes_back_what_it_began(deployed: Stage, made_up: str) -> None:
    deployed.greengrass.associations["core-2"].clear()

    answer = deployed.run(event.delete("client_devices", made_up, **deployed.put(LIST)))

    assert answer == {"PhysicalResourceId": made_up}
    assert deployed.greengrass.associations == {"core-1": set(), "core-2": set()}


def test_an_event_that_is_delivered_twice_associates_once(stage: Stage) -> None:
    request = event.create("client_devices", **stage.put(LIST))
    answers = [on_event(request, Context(300)) for _ in range(2)]

    looks = [is_complete(event.poll(request, answer), Context(300)) for answer in answers]

    assert [look["IsComplete"] for look in looks] == [True, True]
    assert (stage.greengrass.associations, len(made(stage))) == (LIST, 2)


def test_delete_without_its_list_succeeds(deployed: Stage) -> None:
    deployed.run(event.delete("client_devices", ID, ListKey="gone"))

    assert made(deployed) == []


def test_the_delete_after_a_replacement_leaves_everything_to_the_successor(deployed: Stage) -> None:
    for name in ("camera-1", "camera-2", "camera-3"):
        deployed.iot.things[name]["attributes"] = {OWNER: "edgewright-lab-clients"}

    deployed.delete()

    assert deployed.greengrass.associations == LIST


def test_a_core_that_has_not_joined_is_told_and_waits_for_nobody(stage: Stage) -> None:
    del stage.greengrass.associations["core-2"]

    assert stage.create()["Data"] == {"Count": "3", "Waiting": "core-2"}
    assert stage.greengrass.associations == {"core-1": LIST["core-1"]}


def test_ten_thousand_go_in_hundreds_over_several_calls(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.greengrass.PAGE_SIZE = 100
    wanted = {core: {f"camera-{number}" for number in range(5000)} for core in ("core-1", "core-2")}
    left = iter([True] * 70)

    def is_over(_self: Any, doing: str) -> None:
        if next(left, None) is None and stage.polls < 2:
            raise DeadlineError(doing)

    monkeypatch.setattr("edge_handlers.service_client.Deadline.check", is_over)
    stage.create(wanted)

    assert stage.polls == 2
    assert stage.greengrass.associations == wanted
    assert len(made(stage)) == 100, "none is made twice"


def test_refused_entries_fail_with_their_names_and_the_next_try_succeeds(stage: Stage) -> None:
    stage.greengrass.refused_clients = {"camera-2"}
    with pytest.raises(
        AssociationError, match=r"core-1 must be accepted, 1 of 2 were refused: camera-2: no such thing"
    ):
        stage.create()
    stage.greengrass.refused_clients = set()

    stage.create()

    assert stage.greengrass.associations == LIST


@pytest.mark.parametrize("operation", [*CALLS, "list_client_devices_associated_with_core_device"])
def test_a_refused_call_says_what_it_was_for(deployed: Stage, operation: str) -> None:
    deployed.greengrass.refuse(operation, "ThrottlingException")
    new = {"core-1": {"camera-9"}, "core-2": {"camera-3"}}

    with pytest.raises(AwsCallError, match="cannot associate client devices with core device core-"):
        deployed.update(new)
    deployed.update(new)

    assert deployed.greengrass.associations == new


def test_nothing_is_changed_before_the_event_is_answered(stage: Stage) -> None:
    assert on_event(event.create("client_devices"), None) == {"PhysicalResourceId": ID}
    assert stage.greengrass.calls == stage.iot.calls == []


def test_a_list_that_was_changed_is_refused(stage: Stage) -> None:
    changed = {**stage.put(LIST), "ListSha256": "0" * 64}

    with pytest.raises(ValueError, match="sha-256 of s3://cdk-assets/"):
        stage.run(event.create("client_devices", **changed))


def test_the_contract_reads_what_it_writes() -> None:
    contract = Associations(GROUP, DeviceList("bucket", "key", "0" * 64))

    assert Associations.of(Properties(json.loads(json.dumps(contract.to_properties())))) == contract
    with pytest.raises(ValueError, match=r"ThingGroupName is required, got nothing"):
        Associations.of(Properties({}))
