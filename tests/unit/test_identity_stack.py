"""Each actor has its own role, and a core device only its own topics."""

import json
from typing import Any

import aws_cdk as cdk
import pytest

from edge_constructs.identities import CoreDevicePolicy
from stacks.identity_stack import policy_topics
from tests.synthesis import resources


def roles() -> dict[str, list[dict[str, Any]]]:
    """Service to the statements of its role."""
    return {
        role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]["Principal"]["Service"]: role["Properties"][
            "Policies"
        ][0]["PolicyDocument"]["Statement"]
        for role in resources("twin", "Identity", "AWS::IAM::Role")
    }


def actions(service: str) -> set[str]:
    return {action for statement in roles()[service] for action in statement["Action"]}


def test_three_actors_have_three_roles_without_managed_policies() -> None:
    assert set(roles()) == {"ec2.amazonaws.com", "credentials.iot.amazonaws.com", "sagemaker.amazonaws.com"}
    assert "ManagedPolicyArns" not in json.dumps(resources("twin", "Identity", "AWS::IAM::Role"))


def test_no_role_has_an_action_with_a_wildcard() -> None:
    assert not [action for service in roles() for action in actions(service) if "*" in action]


def test_devices_read_artifacts_and_model_packages_and_write_their_own_captures_only() -> None:
    reads = [each for each in roles()["credentials.iot.amazonaws.com"] if each["Action"] == ["s3:GetObject"]]

    assert [resource["Fn::Join"][1][-1] for resource in reads[0]["Resource"]] == [
        "-us-east-1/artifacts/*",
        "-us-east-1/models/*",
    ]
    assert len(reads) == 1
    writes = [each for each in roles()["credentials.iot.amazonaws.com"] if "s3:PutObject" in each["Action"]]
    (written,) = [resource for each in writes for resource in each["Resource"]]
    assert written["Fn::Join"][1][-1] == "-us-east-1/captures/${credentials-iot:ThingName}/*"
    assert not {each for each in actions("credentials.iot.amazonaws.com") if ":Delete" in each}


def test_the_compiler_reads_sources_and_writes_compiled_models() -> None:
    told = json.dumps(roles()["sagemaker.amazonaws.com"])

    assert "/sources/*" in told
    assert "/compiled/*" in told
    assert "/artifacts/*" not in told
    assert "/models/*" not in told


def test_the_edge_server_joins_only_as_its_own_thing() -> None:
    joins = [each for each in roles()["ec2.amazonaws.com"] if each["Action"] == ["iot:AddThingToThingGroup"]]

    assert "thing/edgewright-twin-edge-server" in json.dumps(joins)
    assert "thinggroup/edgewright-twin" in json.dumps(joins)
    assert "iot:CreateThing" not in actions("ec2.amazonaws.com")
    assert not {each for each in actions("ec2.amazonaws.com") if each.startswith(("s3:", "iam:"))}


def iot_statements() -> dict[str, list[str]]:
    """Action to the resources that it is allowed on, without the part that all ARNs share."""
    (policy,) = resources("twin", "Identity", "AWS::IoT::Policy")
    return {
        statement["Action"]: [
            resource["Fn::Join"][1][-1].removeprefix(":iot:*:*:") for resource in statement["Resource"]
        ]
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if isinstance(statement["Action"], str)
    }


def test_a_device_connects_only_as_its_own_thing() -> None:
    assert iot_statements()["iot:Connect"] == [
        "client/${iot:Connection.Thing.ThingName}",
        "client/${iot:Connection.Thing.ThingName}#*",
    ]


def test_every_reserved_topic_is_the_devices_own() -> None:
    topics = [each for resources_ in iot_statements().values() for each in resources_ if "/$aws/" in each]

    assert len(topics) == 3
    assert all("/$aws/things/${iot:Connection.Thing.ThingName}/" in topic for topic in topics)


def test_a_device_may_follow_its_jobs_and_report_its_health() -> None:
    own = "$aws/things/${iot:Connection.Thing.ThingName}/*"
    statements = iot_statements()

    assert f"topicfilter/{own}" in statements["iot:Subscribe"]
    assert f"topic/{own}" in statements["iot:Publish"]
    assert f"topic/{own}" in statements["iot:Receive"]


def test_an_iot_policy_longer_than_aws_allows_is_refused() -> None:
    topics = [f"edgewright/prod/a-model-with-quite-a-long-name-{number}/request" for number in range(20)]

    with pytest.raises(ValueError, match=r"IoT policy long must have at most 2048 characters, got \d{4}"):
        CoreDevicePolicy(
            cdk.Stack(), "Policy", name="long", role_alias="alias", request_topics=topics, response_topics=topics
        )


def test_a_topic_with_the_devices_name_is_that_devices_alone() -> None:
    declared = ["dt/{thing}/out", "plain/out", "$aws/things/{thing}/shadow/update"]

    assert policy_topics(declared) == ["dt/${iot:Connection.Thing.ThingName}/out", "plain/out"]


def test_model_topics_are_exact_and_one_way() -> None:
    statements = iot_statements()

    assert "topic/edgewright/twin/digits/response" in statements["iot:Publish"]
    assert "topic/edgewright/twin/digits/request" in statements["iot:Receive"]
    assert "topicfilter/edgewright/twin/digits/request" in statements["iot:Subscribe"]
    assert not [each for each in statements["iot:Publish"] if each.endswith("/request")]


def test_the_alias_gives_the_token_exchange_role_for_an_hour() -> None:
    (alias,) = resources("twin", "Identity", "AWS::IoT::RoleAlias")

    assert alias["Properties"]["RoleAlias"] == "edgewright-twin-token-exchange"
    assert alias["Properties"]["CredentialDurationSeconds"] == 3600
