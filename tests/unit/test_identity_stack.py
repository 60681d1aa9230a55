"""Each actor has its own role, and a core device only its own topics."""

import json
from typing import Any

import aws_cdk as cdk
import pytest
from ministack.core import iam_evaluator

from edge_constructs.identities import CoreDevicePolicy, by_namespace
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


def test_the_edge_server_may_ask_one_function_and_nothing_of_iot() -> None:
    assert {action.partition(":")[0] for action in actions("ec2.amazonaws.com")} == {"lambda", "ssm", "ssmmessages"}


IOT = "arn:aws:iot:us-east-1:000000000000:"
OTHER = f"{IOT}thing/edgewright-twin-line-1"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:"
#: Ways to act for another device, or to get the rights to.
WAYS = [
    ("iot:AttachThingPrincipal", "*"),
    ("iot:AttachThingPrincipal", OTHER),
    ("iot:DetachThingPrincipal", OTHER),
    ("iot:AttachPolicy", f"{IOT}cert/0123"),
    ("iot:DetachPolicy", f"{IOT}cert/0123"),
    ("iot:CreateKeysAndCertificate", "*"),
    ("iot:CreateCertificateFromCsr", "*"),
    ("iot:RegisterCertificate", "*"),
    ("iot:UpdateCertificate", f"{IOT}cert/0123"),
    ("iot:DeleteCertificate", f"{IOT}cert/0123"),
    ("iot:RegisterThing", "*"),
    ("iot:CreateProvisioningClaim", f"{IOT}provisioningtemplate/edgewright-twin-claim"),
    ("iot:CreatePolicyVersion", f"{IOT}policy/edgewright-twin-core-device"),
    ("iot:UpdateThing", OTHER),
    ("iot:DeleteThing", OTHER),
    ("iot:AddThingToThingGroup", f"{IOT}thinggroup/edgewright-twin"),
    ("iot:Connect", f"{IOT}client/edgewright-twin-line-1"),
    ("iot:Publish", f"{IOT}topic/$aws/things/edgewright-twin-line-1/shadow/update"),
    ("iot:UpdateThingShadow", OTHER),
    ("iot:CreateJob", f"{IOT}job/any"),
    ("greengrass:CreateDeployment", "*"),
    ("greengrass:DeleteCoreDevice", "arn:aws:greengrass:us-east-1:000000000000:coreDevices:edgewright-twin-line-1"),
    ("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-provisioning-hook"),
    ("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-join-other"),
    ("lambda:UpdateFunctionCode", f"{FUNCTION}edgewright-twin-join"),
    ("lambda:UpdateFunctionConfiguration", f"{FUNCTION}edgewright-twin-join"),
    ("lambda:AddPermission", f"{FUNCTION}edgewright-twin-join"),
    ("iam:PassRole", "arn:aws:iam::000000000000:role/any"),
    ("sts:AssumeRole", "arn:aws:iam::000000000000:role/any"),
    ("s3:GetObject", "arn:aws:s3:::edgewright-twin-artifacts-000000000000-us-east-1/models/any"),
    ("s3:PutObject", "arn:aws:s3:::edgewright-twin-artifacts-000000000000-us-east-1/artifacts/any"),
]


def decision(action: str, resource: str) -> str:
    """What the twin's evaluator says of a request of the edge server's role."""
    text = json.dumps({"Version": "2012-10-17", "Statement": roles()["ec2.amazonaws.com"]})
    document = as_text_of(json.loads(text))
    context = iam_evaluator.EvalContext(
        principal_arn="arn:aws:sts::000000000000:assumed-role/edge/i-0",
        principal_type="AssumedRole",
        principal_account="000000000000",
        action=action,
        resource_arn=resource,
        region="us-east-1",
    )
    found: str = iam_evaluator.evaluate(context, [iam_evaluator.parse_policy_document(document)]).decision
    return found


def as_text_of(value: Any) -> Any:
    """A template's value with the pseudo parameters of the twin's account."""
    known = {"AWS::Partition": "aws", "AWS::Region": "us-east-1", "AWS::AccountId": "000000000000"}
    if isinstance(value, dict) and set(value) == {"Fn::Join"}:
        separator, parts = value["Fn::Join"]
        return str(separator).join(as_text_of(part) for part in parts)
    if isinstance(value, dict) and set(value) == {"Ref"}:
        return known[value["Ref"]]
    if isinstance(value, dict):
        return {name: as_text_of(each) for name, each in value.items()}
    return [as_text_of(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("action", "resource"), WAYS)
def test_the_edge_servers_role_can_act_for_no_other_device(action: str, resource: str) -> None:
    assert decision(action, resource) != "Allow"


def test_the_edge_servers_role_may_ask_to_join() -> None:
    assert decision("lambda:InvokeFunction", f"{FUNCTION}edgewright-twin-join") == "Allow"


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
    topics = [f"plant/a-model-with-quite-a-long-name-{number}/request" for number in range(20)]

    with pytest.raises(
        ValueError,
        match=r"IoT policy long must have at most 2048 characters, got \d{4}: 40 of its topics lie outside "
        r"edgewright/prod/<name>/<kind>: plant/a-model.*; move them there",
    ):
        CoreDevicePolicy(
            cdk.Stack(),
            "Policy",
            name="long",
            role_alias="alias",
            namespace="edgewright/prod",
            request_topics=topics,
            response_topics=topics,
        )


def test_topics_of_the_namespace_are_covered_by_their_kind_and_others_stay_exact() -> None:
    topics = ["edgewright/prod/a/request", "edgewright/prod/b/c/request", "edgewright/prod/heartbeat"]
    others = ["edgewright/prod2/a/request", "gg/results", "edgewright/prod/${iot:Connection.Thing.ThingName}/out"]

    covered = by_namespace("edgewright/prod", [*topics, *others])

    assert covered == ["edgewright/prod/*/request", "edgewright/prod/heartbeat", *others]


def test_a_topic_with_the_devices_name_is_that_devices_alone() -> None:
    declared = ["dt/{thing}/out", "plain/out", "$aws/things/{thing}/shadow/update"]

    assert policy_topics(declared) == ["dt/${iot:Connection.Thing.ThingName}/out", "plain/out"]


def test_model_topics_are_of_the_stage_and_one_way() -> None:
    statements = iot_statements()

    assert "topic/edgewright/twin/*/response" in statements["iot:Publish"]
    assert "topic/edgewright/twin/*/request" in statements["iot:Receive"]
    assert "topicfilter/edgewright/twin/*/request" in statements["iot:Subscribe"]
    assert not [each for each in statements["iot:Publish"] if each.endswith("/request")]


def test_the_alias_gives_the_token_exchange_role_for_an_hour() -> None:
    (alias,) = resources("twin", "Identity", "AWS::IoT::RoleAlias")

    assert alias["Properties"]["RoleAlias"] == "edgewright-twin-token-exchange"
    assert alias["Properties"]["CredentialDurationSeconds"] == 3600
