"""Statements of roles and the findings they acknowledge."""

import pytest

from edge_constructs.permission import Permission, arn


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
