"""The core device on EC2: encrypted, unreachable, replaced with its user data."""

import json
from collections.abc import Sequence
from typing import Any

import aws_cdk as cdk
import pytest
from aws_cdk.assertions import Match, Template

from edge_constructs.edge_server import EdgeNetwork, EdgeServer
from tests.synthesis import resources, template
from twin.cloud.ec2 import REPLACING


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


def test_image_is_the_newest_amazon_linux_of_the_day_on_which_the_server_starts() -> None:
    (launch,) = resources("dev", "EdgeServer", "AWS::EC2::LaunchTemplate")
    (instance,) = resources("dev", "EdgeServer", "AWS::EC2::Instance")

    assert launch["Properties"]["LaunchTemplateData"]["ImageId"] == (
        "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
    )
    assert "ImageId" not in instance["Properties"]
    assert instance["Properties"]["LaunchTemplate"]["Version"] == "1"


def test_user_data_tells_the_script_all_that_it_asks_for() -> None:
    (instance,) = resources("dev", "EdgeServer", "AWS::EC2::Instance")
    told = json.dumps(instance["Properties"]["UserData"])

    for line in (
        "export EDGEWRIGHT_REGION='eu-central-1'",
        "export EDGEWRIGHT_STAGE='dev'",
        "export EDGEWRIGHT_THING_NAME='edgewright-dev-edge-server'",
        "export EDGEWRIGHT_JOIN_FUNCTION='edgewright-dev-join'",
        "export EDGEWRIGHT_ROLE_ALIAS='edgewright-dev-token-exchange'",
        "export EDGEWRIGHT_ARTIFACT_BUCKET='edgewright-dev-artifacts-",
        "export EDGEWRIGHT_NUCLEUS_URL='https://d2s8p88vqu9w66.cloudfront.net/releases/greengrass-2.18.3.zip'",
        "export EDGEWRIGHT_PYTHON='3.11'",
        "export EDGEWRIGHT_NUCLEUS_SHA256='538eb3a10dbfcb534865d1da3ede39dcfe3db705bd1938088a07ce3dfd575237'",
    ):
        assert line in told


SERVER: dict[str, Any] = {
    "instance_profile": "profile",
    "instance_type": "t3.small",
    "architecture": "x86_64",
    "volume_gib": 20,
    "image": "2026-11-29",
    "settings": {"THING_NAME": "lab"},
    "script": "main",
    "system": "amazon-linux",
    "name": "lab",
}
#: What is made anew for a new server; CloudFormation neither waits twice on one id nor changes a template's version 1.
RENEWED = {
    "AWS::EC2::Instance",
    "AWS::EC2::LaunchTemplate",
    "AWS::CloudFormation::WaitConditionHandle",
    "AWS::CloudFormation::WaitCondition",
}
REPLACES: dict[str, dict[str, Any]] = {
    "volume": {"volume_gib": 30},
    "image": {"image": "2026-12-24"},
    "network": {"cidr": "10.1.0.0/24"},
    "system": {"system": "ubuntu"},
    "architecture": {"architecture": "aarch64", "instance_type": "t4g.small"},
    "settings": {"settings": {"THING_NAME": "other"}},
    "script": {"script": "other"},
}
KEEPS: dict[str, dict[str, Any]] = {
    "type": {"instance_type": "t3.large"},
    "profile": {"instance_profile": "other"},
    "name": {"name": "other"},
    "cameras": {"cameras": [("10.0.0.9/32", 8080), ("0.0.0.0/0", 443)]},
}


def lab(*, cidr: str = "10.0.0.0/24", cameras: Sequence[tuple[str, int]] = (), **changes: Any) -> dict[str, Any]:
    stack = cdk.Stack(cdk.App(), "Lab", env=cdk.Environment(region="eu-west-1"))
    wanted = {**SERVER, **changes}
    network = EdgeNetwork(
        stack, "Network", name="lab", cidr=cidr, flow_logs=False, system=str(wanted["system"]), cameras=cameras
    )
    EdgeServer(stack, "Server", network=network, patience=cdk.Duration.minutes(15), **wanted)
    made: dict[str, Any] = Template.from_stack(stack).to_json()["Resources"]
    return made


def renewed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Types of what has another id."""
    return {before[each]["Type"] for each in before.keys() - after.keys()}


def properties(made: dict[str, Any]) -> dict[str, Any]:
    (found,) = [each["Properties"] for each in made.values() if each["Type"] == "AWS::EC2::Instance"]
    return dict(found)


@pytest.mark.parametrize("change", REPLACES.values(), ids=list(REPLACES))
def test_a_new_server_is_waited_for(change: dict[str, Any]) -> None:
    assert renewed(lab(), lab(**change)) == RENEWED


@pytest.mark.parametrize("change", KEEPS.values(), ids=list(KEEPS))
def test_a_change_in_place_changes_nothing_that_replaces_the_server(change: dict[str, Any]) -> None:
    before, after = lab(), lab(**change)

    assert renewed(before, after) == set()
    for name in REPLACING:
        assert properties(before).get(name) == properties(after).get(name), f"{name} replaces an instance"


def test_a_camera_is_let_out_to_itself_and_no_port_twice() -> None:
    (group,) = [
        each["Properties"] for each in lab(**KEEPS["cameras"]).values() if each["Type"] == "AWS::EC2::SecurityGroup"
    ]

    ways = [(way["CidrIp"], way["FromPort"]) for way in group["SecurityGroupEgress"]]

    assert ways == [("0.0.0.0/0", 443), ("0.0.0.0/0", 8883), ("0.0.0.0/0", 8443), ("10.0.0.9/32", 8080)]


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_a_new_server_is_sent_the_deployment_of_its_ring_anew(stage: str) -> None:
    (server,) = [
        name
        for name, each in template(stage, "EdgeServer")["Resources"].items()
        if each["Type"] == "AWS::EC2::Instance"
    ]
    names = [
        each["Properties"]["DeploymentName"] for each in resources(stage, "Inference", "AWS::GreengrassV2::Deployment")
    ]

    told = [name.partition(" (server ")[2].rstrip(")") for name in names]
    (fingerprint,) = filter(None, told)
    assert fingerprint in server


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


def test_the_server_that_may_join_is_the_one_that_is_made(twin: Template) -> None:
    made = twin.to_json()["Resources"]
    (server,) = [name for name, each in made.items() if each["Type"] == "AWS::EC2::Instance"]
    (function,) = [
        name for name, each in made.items() if each.get("Properties", {}).get("FunctionName") == "edgewright-twin-join"
    ]
    (joined,) = [each for each in made.values() if each["Type"] == "Custom::ServerJoin"]

    environment = made[function]["Properties"]["Environment"]["Variables"]
    assert environment["THING_NAME"] == joined["Properties"]["ThingName"] == "edgewright-twin-edge-server"
    assert environment["FINGERPRINT"] == joined["Properties"]["Fingerprint"]
    assert environment["FINGERPRINT"] in server
    assert function in made[server]["DependsOn"]
    # Whatever fails after it would leave the server from before without a certificate.
    later = {name for name, each in made.items() if each is not joined and "JoinJoined" in json.dumps(each)}
    waits = {each["Type"] for name, each in made.items() if name in joined["DependsOn"]}
    assert not later
    assert {"AWS::CloudFormation::WaitCondition", "AWS::EC2::Instance", "AWS::EC2::SecurityGroup"} <= waits
