from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.twin.conftest import Clients, trust
from twin import inventory
from twin.state import TwinState

Deploy = Callable[..., dict[str, Any]]


def test_bootstrap_is_listed_apart(twin: TwinState, deploy: Deploy) -> None:
    role = {"RoleName": "cdk-role", "AssumeRolePolicyDocument": trust("cloudformation.amazonaws.com")}
    deploy(
        "CDKToolkit",
        {
            "Assets": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "cdk-assets"}},
            "Role": {"Type": "AWS::IAM::Role", "Properties": role},
        },
    )

    found = inventory.take(twin)

    assert {"buckets cdk-assets", "IAM roles cdk-role", "stacks CDKToolkit"} <= set(found["bootstrap"])
    assert "cdk-assets" not in found.get("buckets", [])


def test_what_a_stack_makes_is_found_and_gone_with_it(twin: TwinState, deploy: Deploy, client: Clients) -> None:
    before = inventory.take(twin)
    vpc = {"Ref": "Vpc"}
    stack = deploy(
        "inventoried",
        {
            "Key": {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": {"Version": "2012-10-17", "Statement": []}}},
            "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.9.0.0/16"}},
            "Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {"VpcId": vpc, "CidrBlock": "10.9.1.0/24"}},
            "Group": {"Type": "AWS::EC2::SecurityGroup", "Properties": {"VpcId": vpc, "GroupDescription": "test"}},
            "Things": {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": "inventoried"}},
            "Log": {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/inventoried"}},
            "Parameter": {
                "Type": "AWS::SSM::Parameter",
                "Properties": {"Name": "/inventoried", "Type": "String", "Value": "1"},
            },
        },
    )
    assert stack["StackStatus"] == "CREATE_COMPLETE"

    during = inventory.take(twin)
    client("cloudformation").delete_stack(StackName=stack["StackId"])
    client("cloudformation").get_waiter("stack_delete_complete").wait(
        StackName=stack["StackId"], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )

    for kind in ("KMS keys", "VPCs", "subnets", "security groups", "thing groups", "log groups", "SSM parameters"):
        assert len(during[kind]) > len(before.get(kind, [])), kind
    assert inventory.take(twin) == before


def test_empty_means_that_only_bootstrap_is_left() -> None:
    assert inventory.is_empty({})
    assert inventory.is_empty({"bootstrap": ["buckets cdk"]})
    assert not inventory.is_empty({"bootstrap": [], "things": ["one"]})
