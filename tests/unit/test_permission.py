"""Statements of roles and the findings they acknowledge."""

from typing import Any

import aws_cdk as cdk
import pytest

from edge_constructs.permission import SAY_FOR_WHOM, SAY_NOTHING, Permission, ServiceRole, arn
from tests.synthesis import assembly, resources


def test_a_wildcard_needs_a_reason() -> None:
    with pytest.raises(ValueError, match=r"wildcard_reason must say why .* got none for \*"):
        Permission(("iot:DescribeEndpoint",), ("*",))


def test_exact_resources_acknowledge_nothing() -> None:
    assert Permission(("s3:GetObject",), ("arn:x",)).findings == {}


def test_a_wildcard_acknowledges_exactly_the_finding_it_causes() -> None:
    permission = Permission(("iot:DeleteThing",), (arn("iot", "thing/*"), arn("iot", "job/one")), wildcard_reason="why")

    assert permission.findings == {
        "IAM5[Resource::arn:<AWS::Partition>:iot:<AWS::Region>:<AWS::AccountId>:thing/*]": "why"
    }


def test_conditions_are_part_of_the_statement() -> None:
    condition = {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}

    assert Permission(("iam:PassRole",), ("arn:x",), condition).statement == {
        "Effect": "Allow",
        "Action": ["iam:PassRole"],
        "Resource": ["arn:x"],
        "Condition": condition,
    }


def test_a_policy_variable_is_printed_as_the_gate_prints_it() -> None:
    permission = Permission(("s3:PutObject",), ("arn:x/${credentials-iot:ThingName}/*",), wildcard_reason="why")

    assert permission.findings == {"IAM5[Resource::arn:x/<credentials-iot:ThingName>/*]": "why"}


def test_a_service_that_nobody_has_looked_up_gets_no_role() -> None:
    with pytest.raises(ValueError, match=r"service must be one of .*, got backup.amazonaws.com: look up its confused"):
        ServiceRole(cdk.Stack(), "Role", service="backup.amazonaws.com", permissions=[])


@pytest.mark.parametrize("stage", ["dev", "prod", "twin"])
def test_every_service_that_says_for_whom_it_asks_is_asked(stage: str) -> None:
    found: dict[str, list[Any]] = {}
    for file in assembly(stage).glob("*.template.json"):
        stack = file.name.removesuffix(".template.json")
        for role in resources(stage, stack, "AWS::IAM::Role"):
            (statement,) = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            found.setdefault(statement["Principal"].get("Service", ""), []).append(statement.get("Condition"))

    for service, conditions in found.items():
        sources = ["aws:SourceAccount" in str(condition) for condition in conditions]
        assert all(sources) if service in SAY_FOR_WHOM else not any(sources)
    assert {
        "states.amazonaws.com",
        "lambda.amazonaws.com",
        "credentials.iot.amazonaws.com",
        "iot.amazonaws.com",
    } <= found.keys()
    assert SAY_FOR_WHOM.isdisjoint(SAY_NOTHING)
