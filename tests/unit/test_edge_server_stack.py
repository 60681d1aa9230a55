"""The core device on EC2: encrypted, unreachable, replaced with its user data."""

import json

import pytest
from aws_cdk.assertions import Match, Template

from tests.synthesis import resources, template


@pytest.fixture(scope="module")
def twin() -> Template:
    return Template.from_json(template("twin", "EdgeServer"))


def test_instance_is_hardened(twin: Template) -> None:
    twin.has_resource_properties(
        "AWS::EC2::Instance",
        {
            "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
            "BlockDeviceMappings": [
                {
                    "DeviceName": "/dev/xvda",
                    "Ebs": {"Encrypted": True, "VolumeType": "gp3", "VolumeSize": 20, "DeleteOnTermination": True},
                }
            ],
            "KeyName": Match.absent(),
        },
    )


def test_no_port_is_open_and_there_is_no_nat(twin: Template) -> None:
    twin.has_resource_properties("AWS::EC2::SecurityGroup", {"SecurityGroupIngress": Match.absent()})
    twin.resource_count_is("AWS::EC2::SecurityGroupIngress", 0)
    twin.resource_count_is("AWS::EC2::NatGateway", 0)
    (group,) = resources("twin", "EdgeServer", "AWS::EC2::SecurityGroup")
    assert {rule["FromPort"] for rule in group["Properties"]["SecurityGroupEgress"]} == {443, 8443, 8883}


def test_image_is_the_newest_amazon_linux_of_the_machine() -> None:
    parameters = template("dev", "EdgeServer")["Parameters"].values()

    assert {
        "Type": "AWS::SSM::Parameter::Value<AWS::EC2::Image::Id>",
        "Default": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64",
        "Description": "The newest Amazon Linux 2023",
    } in parameters


def test_user_data_tells_the_script_all_that_it_asks_for() -> None:
    (instance,) = resources("dev", "EdgeServer", "AWS::EC2::Instance")
    told = json.dumps(instance["Properties"]["UserData"])

    for line in (
        "export EDGEWRIGHT_REGION='eu-central-1'",
        "export EDGEWRIGHT_STAGE='dev'",
        "export EDGEWRIGHT_THING_NAME='edgewright-dev-edge-server'",
        "export EDGEWRIGHT_THING_GROUP='edgewright-dev'",
        "export EDGEWRIGHT_IOT_POLICY='edgewright-dev-core-device'",
        "export EDGEWRIGHT_ROLE_ALIAS='edgewright-dev-token-exchange'",
        "export EDGEWRIGHT_ARTIFACT_BUCKET='edgewright-dev-artifacts-",
        "export EDGEWRIGHT_NUCLEUS_URL='https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-2.18.3.zip'",
        "export EDGEWRIGHT_PYTHON='3.11'",
        "export EDGEWRIGHT_NUCLEUS_SHA256='538eb3a10dbfcb534865d1da3ede39dcfe3db705bd1938088a07ce3dfd575237'",
    ):
        assert line in told


def test_flow_logs_follow_the_stage() -> None:
    assert not resources("twin", "EdgeServer", "AWS::EC2::FlowLog")
    (log,) = resources("prod", "EdgeServer", "AWS::EC2::FlowLog")
    assert log["Properties"]["TrafficType"] == "ALL"


def test_instance_waits_for_its_way_out(twin: Template) -> None:
    twin.has_resource(
        "AWS::EC2::Instance",
        {
            "DependsOn": Match.array_with(
                [Match.string_like_regexp("DefaultRoute"), Match.string_like_regexp("RouteTableAssociation")]
            )
        },
    )
