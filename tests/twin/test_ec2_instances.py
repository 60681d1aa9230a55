"""What EC2 launches for a stack: its tags, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.twin.conftest import Clients, settle

TEMPLATE: dict[str, Any] = {
    "Resources": {
        "Template": {
            "Type": "AWS::EC2::LaunchTemplate",
            "Properties": {
                "LaunchTemplateData": {
                    "ImageId": "ami-12345678",
                    "TagSpecifications": [
                        {"ResourceType": "instance", "Tags": [{"Key": "of", "Value": "template"}]},
                        {"ResourceType": "volume", "Tags": [{"Key": "disk", "Value": "root"}]},
                    ],
                }
            },
        },
        "Instance": {
            "Type": "AWS::EC2::Instance",
            "Properties": {
                "LaunchTemplate": {"LaunchTemplateId": {"Ref": "Template"}, "Version": "1"},
                "Tags": [{"Key": "own", "Value": "1"}, {"Key": "plant", "Value": "instance's"}],
            },
        },
    }
}


def test_an_instance_has_the_tags_of_its_stack_its_template_and_its_own(client: Clients) -> None:
    cloudformation, ec2 = client("cloudformation"), client("ec2")

    def tags() -> dict[str, str]:
        found = ec2.describe_instances(Filters=[{"Name": "tag:aws:cloudformation:stack-name", "Values": ["tagged"]}])
        (instance,) = [each for part in found["Reservations"] for each in part["Instances"]]
        return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}

    def given(**values: str) -> dict[str, Any]:
        stack_tags = [{"Key": key, "Value": value} for key, value in values.items()]
        return {"StackName": "tagged", "TemplateBody": json.dumps(TEMPLATE), "Tags": stack_tags}

    identifier = cloudformation.create_stack(**given(plant="stack's", line="7"))["StackId"]
    try:
        assert settle(cloudformation, identifier)["StackStatus"] == "CREATE_COMPLETE"
        assert tags() == {
            "own": "1",
            "plant": "instance's",
            "line": "7",
            "of": "template",
            "aws:cloudformation:stack-name": "tagged",
            "aws:cloudformation:stack-id": identifier,
            "aws:cloudformation:logical-id": "Instance",
        }

        cloudformation.update_stack(**given(line="8"))
        assert settle(cloudformation, identifier)["StackStatus"] == "UPDATE_COMPLETE"
        assert tags()["line"] == "8"
    finally:
        cloudformation.delete_stack(StackName=identifier)
        settle(cloudformation, identifier)


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"SubnetId": "subnet-nowhere"}, "SubnetId must exist, got subnet-nowhere"),
        (
            {"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": "big"}}]},
            "VolumeSize must be a whole number of GiB, got big",
        ),
    ],
)
def test_an_instance_that_cannot_be_made_is_refused_and_not_left_behind(
    properties: dict[str, Any], reason: str, deploy: Callable[..., dict[str, Any]], client: Clients
) -> None:

    instance = {"Type": "AWS::EC2::Instance", "Properties": {"ImageId": "ami-12345678", **properties}}
    before = running(client)

    stack = deploy("refused", {"Instance": instance})

    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    events = client("cloudformation").describe_stack_events(StackName=stack["StackId"])["StackEvents"]
    assert reason in [each.get("ResourceStatusReason") for each in events]
    assert running(client) == before


def running(client: Clients) -> list[str]:
    states = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    found = client("ec2").describe_instances(Filters=states)["Reservations"]
    return sorted(each["InstanceId"] for part in found for each in part["Instances"])
