"""Stacks with Greengrass types: create, replace with the old version retained, roll back, delete."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.twin_greengrass.started_cloud import Cloud

WAIT_S = 30.0


class Stack:
    def __init__(self, cloud: Cloud, name: str) -> None:
        self.client, self.name = cloud.client("cloudformation"), name

    def deploy(self, template: dict[str, Any]) -> str:
        exists = self.status() is not None
        call = self.client.update_stack if exists else self.client.create_stack
        call(StackName=self.name, TemplateBody=json.dumps(template))
        return self.settled()

    def delete(self) -> str:
        self.client.delete_stack(StackName=self.name)
        return self.settled()

    def settled(self) -> str:
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            status = self.status() or "DELETE_COMPLETE"
            if not status.endswith("_IN_PROGRESS"):
                return status
            time.sleep(0.1)
        raise AssertionError(f"{self.name} is still {self.status()}")

    def status(self) -> str | None:
        try:
            return str(self.client.describe_stacks(StackName=self.name)["Stacks"][0]["StackStatus"])
        except self.client.exceptions.ClientError:
            return None

    def outputs(self) -> dict[str, str]:
        stack = self.client.describe_stacks(StackName=self.name)["Stacks"][0]
        return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}

    def reasons(self) -> str:
        events = self.client.describe_stack_events(StackName=self.name)["StackEvents"]
        return "\n".join(event.get("ResourceStatusReason", "") for event in events)


@pytest.fixture
def stack(cloud: Cloud) -> Iterator[Stack]:
    made = Stack(cloud, f"stack-{uuid.uuid4().hex[:8]}")
    yield made
    made.delete()


@pytest.fixture
def template(recipe_text: Callable[..., str], stack: Stack) -> Callable[..., dict[str, Any]]:
    def make(version: str, **deployment: Any) -> dict[str, Any]:
        name = f"com.{stack.name}"
        return {
            "Resources": {
                "Group": {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": stack.name}},
                "Component": {
                    "Type": "AWS::GreengrassV2::ComponentVersion",
                    "UpdateReplacePolicy": "Retain",
                    "Properties": {"InlineRecipe": recipe_text(name, version), "Tags": {"team": "edge"}},
                },
                "Deployment": {
                    "Type": "AWS::GreengrassV2::Deployment",
                    "DependsOn": "Component",
                    "Properties": {
                        "TargetArn": {"Fn::GetAtt": ["Group", "Arn"]},
                        "DeploymentName": stack.name,
                        "Components": {name: {"ComponentVersion": version}},
                        "DeploymentPolicies": {"ComponentUpdatePolicy": {"TimeoutInSeconds": "30"}},
                        **deployment,
                    },
                },
            },
            "Outputs": {
                "Group": {"Value": {"Fn::GetAtt": ["Group", "Arn"]}},
                "Component": {"Value": {"Ref": "Component"}},
                "Version": {"Value": {"Fn::GetAtt": ["Component", "ComponentVersion"]}},
                "Deployment": {"Value": {"Fn::GetAtt": ["Deployment", "DeploymentId"]}},
            },
        }

    return make


def versions(cloud: Cloud, stack: Stack) -> list[str]:
    arn = f"arn:aws:greengrass:us-east-1:000000000000:components:com.{stack.name}"
    found = cloud.client("greengrassv2").list_component_versions(arn=arn)["componentVersions"]
    return [each["componentVersion"] for each in found]


def test_a_stack_is_created_replaced_and_deleted(
    cloud: Cloud, stack: Stack, template: Callable[..., dict[str, Any]]
) -> None:
    greengrass, iot = cloud.client("greengrassv2"), cloud.client("iot")
    assert stack.deploy(template("1.0.0")) == "CREATE_COMPLETE", stack.reasons()
    first = stack.outputs()
    deployment = greengrass.get_deployment(deploymentId=first["Deployment"])
    assert first["Component"].endswith(":versions:1.0.0")
    assert first["Version"] == "1.0.0"
    assert deployment["targetArn"] == first["Group"]
    assert deployment["deploymentPolicies"]["componentUpdatePolicy"]["timeoutInSeconds"] == 30
    assert greengrass.list_tags_for_resource(resourceArn=first["Component"])["tags"] == {"team": "edge"}

    assert stack.deploy(template("1.1.0")) == "UPDATE_COMPLETE", stack.reasons()

    second = stack.outputs()
    assert versions(cloud, stack) == ["1.1.0", "1.0.0"], "the old version has to be retained"
    assert second["Deployment"] != first["Deployment"]
    assert greengrass.get_deployment(deploymentId=second["Deployment"])["revisionId"] == "2"
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_deployment(deploymentId=first["Deployment"])

    assert stack.delete() == "DELETE_COMPLETE"

    assert versions(cloud, stack) == ["1.0.0"]
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_deployment(deploymentId=second["Deployment"])
    for made in (deployment, second):
        with pytest.raises(iot.exceptions.ResourceNotFoundException):
            iot.describe_job(jobId=made.get("iotJobId", "none"))


def test_tags_change_without_replacement(cloud: Cloud, stack: Stack, template: Callable[..., dict[str, Any]]) -> None:
    stack.deploy(template("1.0.0"))
    before, changed = stack.outputs(), template("1.0.0")
    for kind in ("Component", "Deployment"):
        changed["Resources"][kind]["Properties"]["Tags"] = {"stage": "dev"}

    assert stack.deploy(changed) == "UPDATE_COMPLETE", stack.reasons()

    assert stack.outputs() == before
    tags = cloud.client("greengrassv2").list_tags_for_resource(resourceArn=before["Component"])["tags"]
    assert tags == {"stage": "dev"}


def test_a_failing_update_rolls_back(cloud: Cloud, stack: Stack, template: Callable[..., dict[str, Any]]) -> None:
    greengrass = cloud.client("greengrassv2")
    stack.deploy(template("1.0.0"))
    before = stack.outputs()
    missing = "arn:aws:iot:us-east-1:000000000000:thinggroup/no-such-group"

    assert stack.deploy(template("1.1.0", TargetArn=missing)) == "UPDATE_ROLLBACK_COMPLETE"

    assert "no-such-group" in stack.reasons()
    assert stack.outputs() == before
    assert versions(cloud, stack) == ["1.0.0"], "the new version goes with the rollback"
    assert greengrass.get_deployment(deploymentId=before["Deployment"])["deploymentStatus"] == "ACTIVE"


def test_a_version_that_exists_fails_the_stack(
    cloud: Cloud, stack: Stack, template: Callable[..., dict[str, Any]], recipe_text: Callable[..., str]
) -> None:
    cloud.client("greengrassv2").create_component_version(inlineRecipe=recipe_text(f"com.{stack.name}", "1.0.0"))

    assert stack.deploy(template("1.0.0")) in ("ROLLBACK_COMPLETE", "CREATE_FAILED")

    assert "AlreadyExists" in stack.reasons()
    assert versions(cloud, stack) == ["1.0.0"]


def test_the_iot_types_of_a_fleet_have_their_attributes(cloud: Cloud, stack: Stack) -> None:
    role = "arn:aws:iam::000000000000:role/token-exchange"
    alias = {"RoleAlias": stack.name, "RoleArn": role, "CredentialDurationSeconds": "900"}
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"}]}
    template = {
        "Resources": {
            "Alias": {"Type": "AWS::IoT::RoleAlias", "Properties": alias},
            "Type": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": stack.name}},
            "Group": {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": stack.name}},
            "Policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": stack.name, "PolicyDocument": policy}},
        },
        "Outputs": {
            "Alias": {"Value": {"Ref": "Alias"}},
            "AliasArn": {"Value": {"Fn::GetAtt": ["Alias", "RoleAliasArn"]}},
            "TypeArn": {"Value": {"Fn::GetAtt": ["Type", "Arn"]}},
            "GroupArn": {"Value": {"Fn::GetAtt": ["Group", "Arn"]}},
            "PolicyArn": {"Value": {"Fn::GetAtt": ["Policy", "Arn"]}},
        },
    }
    assert stack.deploy(template) == "CREATE_COMPLETE", stack.reasons()
    prefix = "arn:aws:iot:us-east-1:000000000000"
    assert stack.outputs() == {
        "Alias": stack.name,
        "AliasArn": f"{prefix}:rolealias/{stack.name}",
        "TypeArn": f"{prefix}:thingtype/{stack.name}",
        "GroupArn": f"{prefix}:thinggroup/{stack.name}",
        "PolicyArn": f"{prefix}:policy/{stack.name}",
    }
    alias["CredentialDurationSeconds"] = "1800"
    assert stack.deploy(template) == "UPDATE_COMPLETE", stack.reasons()
    described = cloud.client("iot").describe_role_alias(roleAlias=stack.name)["roleAliasDescription"]
    assert described["credentialDurationSeconds"] == 1800

    assert stack.delete() == "DELETE_COMPLETE"
    assert stack.name not in cloud.client("iot").list_role_aliases()["roleAliases"]
