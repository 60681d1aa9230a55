import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_handlers.sagemaker_devices import on_event
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_device_fleets import FakeDeviceFleets
from tests.handlers.fake_s3 import FakeS3
from tests.handlers.fake_service import refusal

FLEET = "edgewright-dev-devices"
ID = f"sagemaker-devices-{FLEET}"
NAMES = ("edgewright-dev-edge-server", "line-1", "line-2")


@pytest.fixture
def fleets(s3: FakeS3, serve: Callable[..., None]) -> FakeDeviceFleets:
    fake = FakeDeviceFleets()
    fake.fleets = {FLEET: {}, "of-somebody-else": {"line-9": "line-9"}}
    serve(sagemaker=fake, s3=s3)
    return fake


def listing(s3: FakeS3, *names: str) -> dict[str, Any]:
    """Publish a list of devices; the properties that point to it."""
    content = json.dumps(dict.fromkeys(names, "all")).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    s3.put("cdk-assets", f"{sha256}.json", content)
    return {"ListKey": f"{sha256}.json", "ListSha256": sha256}


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return on_event(request, Context(seconds))


def test_create_registers_every_thing_under_its_own_name(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    answer = run(event.create("sagemaker_devices", **listing(s3, *NAMES)))

    assert answer == {"PhysicalResourceId": ID, "Data": {"Count": "3"}}
    assert fleets.fleets[FLEET] == {name: name for name in NAMES}


def test_a_second_create_registers_nobody_again(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    request = event.create("sagemaker_devices", **listing(s3, *NAMES))

    assert run(request) == run(request)
    assert len(fleets.called("register_devices")) == 1


def test_update_changes_exactly_the_difference(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    run(event.create("sagemaker_devices", **listing(s3, *NAMES)))
    run(event.update("sagemaker_devices", ID, **listing(s3, "line-2", "line-3")))

    assert set(fleets.fleets[FLEET]) == {"line-2", "line-3"}
    assert fleets.called("register_devices")[1]["Devices"] == [{"DeviceName": "line-3", "IotThingName": "line-3"}]
    assert fleets.called("deregister_devices")[0]["DeviceNames"] == ["edgewright-dev-edge-server", "line-1"]


def test_a_rollback_is_the_update_backwards(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    before, after = listing(s3, "line-1"), listing(s3, "line-2")
    run(event.create("sagemaker_devices", **before))
    run(event.update("sagemaker_devices", ID, old=before, **after))
    run(event.update("sagemaker_devices", ID, old=after, **before))

    assert set(fleets.fleets[FLEET]) == {"line-1"}


def test_another_fleet_is_another_resource_whose_delete_is_about_the_former(
    fleets: FakeDeviceFleets, s3: FakeS3
) -> None:
    run(event.create("sagemaker_devices", **listing(s3, "line-1")))
    fleets.fleets["new"] = {}
    answer = run(event.update("sagemaker_devices", ID, DeviceFleetName="new", **listing(s3, "line-1")))

    assert answer["PhysicalResourceId"] == "sagemaker-devices-new"
    run(event.delete("sagemaker_devices", ID, DeviceFleetName="new"))
    assert (fleets.fleets[FLEET], set(fleets.fleets["new"])) == ({}, {"line-1"})


def test_delete_takes_all_devices_of_its_fleet_and_of_no_other(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    run(event.create("sagemaker_devices", **listing(s3, *NAMES)))
    request = event.delete("sagemaker_devices", ID)

    assert run(request) == run(request) == {"PhysicalResourceId": ID}
    assert fleets.fleets == {FLEET: {}, "of-somebody-else": {"line-9": "line-9"}}


@pytest.mark.parametrize(
    ("code", "message"),
    [("ValidationException", "Device fleet does not exist"), ("ResourceNotFound", "no such fleet")],
)
def test_delete_succeeds_where_the_fleet_is_gone(fleets: FakeDeviceFleets, code: str, message: str) -> None:
    fleets.fleets.clear()
    fleets.absent_code, fleets.absent_message = code, message

    assert run(event.delete("sagemaker_devices", ID)) == {"PhysicalResourceId": ID}


def test_delete_does_not_take_another_validation_error_for_absence(fleets: FakeDeviceFleets) -> None:
    fleets.refuse("list_devices", "ValidationException", message="1 validation error detected")

    with pytest.raises(AwsCallError, match="1 validation error detected"):
        run(event.delete("sagemaker_devices", ID))


def test_many_devices_go_in_batches(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    names = [f"device-{number:04}" for number in range(1234)]
    run(event.create("sagemaker_devices", **listing(s3, *names)))

    assert [len(call["Devices"]) for call in fleets.called("register_devices")] == [50] * 24 + [34]
    assert sorted(fleets.fleets[FLEET]) == names


def test_a_fleet_that_is_not_known_everywhere_yet_is_waited_for(
    fleets: FakeDeviceFleets, s3: FakeS3, pauses: list[float]
) -> None:
    fleets.refuse("register_devices", "ResourceNotFound", times=2)

    run(event.create("sagemaker_devices", **listing(s3, "line-1")))

    assert set(fleets.fleets[FLEET]) == {"line-1"}
    assert pauses == [2.0, 2.0]


def test_the_time_over_is_told_and_the_next_run_goes_on(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    request = event.create("sagemaker_devices", **listing(s3, *NAMES))

    with pytest.raises(DeadlineError, match="about to register edgewright-dev-edge-server and 2 more in fleet"):
        run(request, seconds=1)
    assert run(request)["Data"] == {"Count": "3"}


@pytest.mark.parametrize("code", ["ThrottlingException", "AccessDeniedException", "UnknownOperationException"])
@pytest.mark.parametrize("call", ["list_devices", "register_devices", "deregister_devices"])
def test_a_refused_call_says_that_the_service_is_retired_and_a_retry_goes_on(
    fleets: FakeDeviceFleets, s3: FakeS3, call: str, code: str
) -> None:
    fleets.fleets[FLEET] = {"former": "former"}
    fleets.refuse(call, code)
    request = event.create("sagemaker_devices", **listing(s3, "line-1"))

    with pytest.raises(AwsCallError, match=rf'retired SageMaker Edge Manager .*set fleet.registry = "iot".*{code}'):
        run(request)
    run(request)
    assert set(fleets.fleets[FLEET]) == {"line-1"}


def test_a_create_that_fails_half_way_leaves_no_device_in_the_fleet(
    fleets: FakeDeviceFleets, s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = fleets.register_devices

    def once(**arguments: Any) -> dict[str, Any]:
        if fleets.called("register_devices"):
            raise refusal("ThrottlingException", "RegisterDevices", "Rate exceeded")
        return register(**arguments)

    monkeypatch.setattr(fleets, "register_devices", once)
    names = [f"device-{number:04}" for number in range(60)]

    with pytest.raises(AwsCallError, match="Rate exceeded"):
        run(event.create("sagemaker_devices", **listing(s3, *names)))

    assert fleets.fleets[FLEET] == {}


def test_refuses_a_name_that_sagemaker_cannot_take(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    with pytest.raises(ValueError, match=r"1 to 63 letters, digits and inner dashes, got \['line_1'\]"):
        run(event.create("sagemaker_devices", **listing(s3, "line_1")))
    assert fleets.calls == []


def test_refuses_a_list_that_is_not_the_published_one(fleets: FakeDeviceFleets, s3: FakeS3) -> None:
    pointer = listing(s3, "line-1")
    s3.put("cdk-assets", pointer["ListKey"], b"{}")

    with pytest.raises(ValueError, match=r"sha-256 of s3://cdk-assets/.* must be"):
        run(event.create("sagemaker_devices", **pointer))
