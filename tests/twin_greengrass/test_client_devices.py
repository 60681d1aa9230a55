"""Which things may discover which core, as boto3 sees it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.twin_greengrass.started_cloud import Cloud


@pytest.fixture
def core(cloud: Cloud) -> str:
    return thing(cloud, "core")


def thing(cloud: Cloud, kind: str) -> str:
    name = f"{kind}-{uuid.uuid4().hex[:8]}"
    cloud.client("iot").create_thing(thingName=name)
    return name


def entries(*names: str) -> list[dict[str, str]]:
    return [{"thingName": name} for name in names]


def associated(greengrass: Any, core: str, size: int = 100) -> list[str]:
    pages = greengrass.get_paginator("list_client_devices_associated_with_core_device").paginate(
        coreDeviceThingName=core, PaginationConfig={"PageSize": size}
    )
    return [each["thingName"] for page in pages for each in page.get("associatedClientDevices", [])]


def test_things_are_associated_in_pages_again_and_no_more(cloud: Cloud, core: str) -> None:
    greengrass, things = cloud.client("greengrassv2"), sorted(thing(cloud, "camera") for _ in range(5))
    call = {"coreDeviceThingName": core, "entries": entries(*things)}

    first = greengrass.batch_associate_client_device_with_core_device(**call)
    since = greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core)
    again = greengrass.batch_associate_client_device_with_core_device(**call)

    assert first["errorEntries"] == again["errorEntries"] == []
    unchanged = greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core)
    assert unchanged["associatedClientDevices"] == since["associatedClientDevices"]
    assert associated(greengrass, core, size=2) == things
    for _ in range(2):
        away = {"coreDeviceThingName": core, "entries": entries(*things[:4])}
        assert greengrass.batch_disassociate_client_device_from_core_device(**away)["errorEntries"] == []
    assert associated(greengrass, core) == things[4:]


def test_what_is_no_thing_is_told_and_the_rest_is_associated(cloud: Cloud, core: str) -> None:
    greengrass, camera = cloud.client("greengrassv2"), thing(cloud, "camera")

    answer = greengrass.batch_associate_client_device_with_core_device(
        coreDeviceThingName=core, entries=entries("not-there", camera)
    )

    assert [(each["thingName"], each["code"]) for each in answer["errorEntries"]] == [
        ("not-there", "ResourceNotFoundException")
    ]
    assert associated(greengrass, core) == [camera]


def test_a_malformed_call_is_refused(cloud: Cloud, core: str) -> None:
    greengrass = cloud.client("greengrassv2")
    call = greengrass.batch_associate_client_device_with_core_device

    for wrong in (entries(*(f"camera-{number}" for number in range(101))), entries("x" * 129)):
        with pytest.raises(greengrass.exceptions.ValidationException):
            call(coreDeviceThingName=core, entries=wrong)
    with pytest.raises(greengrass.exceptions.ValidationException):
        greengrass.list_client_devices_associated_with_core_device(coreDeviceThingName=core, nextToken="no token")
    for operation in (
        call,
        greengrass.batch_disassociate_client_device_from_core_device,
        greengrass.list_client_devices_associated_with_core_device,
    ):
        with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
            operation(coreDeviceThingName="not-there")


def test_a_deleted_thing_leaves_nothing_to_the_next_of_its_name(cloud: Cloud, core: str) -> None:
    greengrass, iot, camera = cloud.client("greengrassv2"), cloud.client("iot"), thing(cloud, "camera")
    call = {"coreDeviceThingName": core, "entries": entries(camera)}
    for deleted in (camera, core):
        greengrass.batch_associate_client_device_with_core_device(**call)
        assert associated(greengrass, core) == [camera]

        iot.delete_thing(thingName=deleted)
        iot.create_thing(thingName=deleted)

        assert associated(greengrass, core) == []
