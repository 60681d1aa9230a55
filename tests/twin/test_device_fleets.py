"""SageMaker device fleets: through CloudFormation and the API, with the refusals that a destroy must get right."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.twin.conftest import Clients

Deploy = Callable[..., dict[str, Any]]
ROLE = "arn:aws:iam::000000000000:role/somebody"


def fleet(name: str, **properties: Any) -> dict[str, Any]:
    output = {"S3OutputLocation": "s3://somewhere/captures/"}
    properties = {"DeviceFleetName": name, "RoleArn": ROLE, "OutputConfig": output, **properties}
    return {"Fleet": {"Type": "AWS::SageMaker::DeviceFleet", "Properties": properties}}


def names(sagemaker: Any, fleet_name: str) -> list[str]:
    pages = sagemaker.get_paginator("list_devices").paginate(DeviceFleetName=fleet_name)
    return [device["DeviceName"] for page in pages for device in page["DeviceSummaries"]]


def test_a_stack_makes_updates_and_deletes_a_fleet(deploy: Deploy, client: Clients) -> None:
    sagemaker = client("sagemaker")
    stack = deploy("fleet-of-devices", fleet("pumps"))
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    assert sagemaker.describe_device_fleet(DeviceFleetName="pumps")["RoleArn"] == ROLE

    client("cloudformation").delete_stack(StackName=stack["StackId"])
    client("cloudformation").get_waiter("stack_delete_complete").wait(
        StackName=stack["StackId"], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )

    assert "pumps" not in [each["DeviceFleetName"] for each in sagemaker.list_device_fleets()["DeviceFleetSummaries"]]
    with pytest.raises(ClientError, match=r"\(ValidationException\).*Device fleet pumps does not exist"):
        sagemaker.list_devices(DeviceFleetName="pumps")


def test_devices_come_and_go_page_by_page_and_hold_their_fleet(client: Clients) -> None:
    sagemaker = client("sagemaker")
    sagemaker.create_device_fleet(
        DeviceFleetName="valves", RoleArn=ROLE, OutputConfig={"S3OutputLocation": "s3://somewhere/"}
    )
    many = [f"valve-{number:02}" for number in range(25)]
    sagemaker.register_devices(
        DeviceFleetName="valves", Devices=[{"DeviceName": name, "IotThingName": name} for name in many]
    )

    assert names(sagemaker, "valves") == many
    of_fleet = partial(sagemaker.list_devices, DeviceFleetName="valves")
    assert of_fleet(ModelName="digits")["DeviceSummaries"] == [], "no agent has said what a device runs"
    assert of_fleet(LatestHeartbeatAfter=datetime(2020, 1, 1, tzinfo=UTC))["DeviceSummaries"] == []
    with pytest.raises(ClientError, match="ResourceInUse"):
        sagemaker.delete_device_fleet(DeviceFleetName="valves")

    sagemaker.deregister_devices(DeviceFleetName="valves", DeviceNames=[*many, "valve-never"])
    assert names(sagemaker, "valves") == []
    sagemaker.delete_device_fleet(DeviceFleetName="valves")


def test_a_name_that_breaks_the_services_rules_is_refused(client: Clients) -> None:
    with pytest.raises(ClientError, match="ValidationException"):
        client("sagemaker").create_device_fleet(
            DeviceFleetName="no_underscore", RoleArn=ROLE, OutputConfig={"S3OutputLocation": "s3://somewhere/"}
        )


def test_a_template_is_held_against_the_services_rules(deploy: Deploy, client: Clients) -> None:
    stack = deploy("fleet-of-a-bad-name", fleet("no_underscore"))

    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    events = client("cloudformation").describe_stack_events(StackName=stack["StackId"])["StackEvents"]
    assert any("deviceFleetName" in each.get("ResourceStatusReason", "") for each in events)


def test_a_property_that_leaves_the_template_leaves_the_fleet(deploy: Deploy, client: Clients) -> None:
    deploy("fleet-described", fleet("fans", Description="of the hall"))
    client("sagemaker").register_devices(DeviceFleetName="fans", Devices=[{"DeviceName": "fan-1"}])

    assert deploy("fleet-described", fleet("fans"))["StackStatus"] == "UPDATE_COMPLETE"

    assert "Description" not in client("sagemaker").describe_device_fleet(DeviceFleetName="fans")
    assert names(client("sagemaker"), "fans") == ["fan-1"]
    client("sagemaker").deregister_devices(DeviceFleetName="fans", DeviceNames=["fan-1"])


def test_fleets_are_listed_by_name_time_and_order(client: Clients) -> None:
    sagemaker = client("sagemaker")
    for name in ("list-b", "list-a"):
        sagemaker.create_device_fleet(
            DeviceFleetName=name, RoleArn=ROLE, OutputConfig={"S3OutputLocation": "s3://somewhere/"}
        )

    def listed(**filters: Any) -> list[str]:
        found = sagemaker.list_device_fleets(NameContains="list-", **filters)
        return [each["DeviceFleetName"] for each in found["DeviceFleetSummaries"]]

    made = sagemaker.describe_device_fleet(DeviceFleetName="list-a")["CreationTime"]
    assert listed(SortBy="NAME", SortOrder="Ascending") == ["list-a", "list-b"]
    assert listed(SortBy="CREATION_TIME", SortOrder="Ascending") == ["list-b", "list-a"]
    assert listed(SortBy="LAST_MODIFIED_TIME") == ["list-a", "list-b"]
    assert listed(LastModifiedTimeAfter=made + timedelta(hours=1)) == []
    assert listed(CreationTimeBefore=made - timedelta(hours=1)) == []
