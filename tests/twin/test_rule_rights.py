"""With policies evaluated, a rule does what its role allows, and says in its error action what the role lacks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.twin.conftest import trust, wait_until
from tests.twin_greengrass.started_cloud import Cloud, started_cloud

GROUP, NAMESPACE = "rule-failures", "Allowed"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started_cloud(tmp_path_factory.mktemp("rights"), auth=True) as started:
        started.client("logs").create_log_group(logGroupName=GROUP)
        yield started


def role(cloud: Cloud, name: str, service: str = "iot.amazonaws.com") -> str:
    """A role that may put metrics into one namespace and write the log of failures."""
    iam = cloud.client("iam")
    arn = str(iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust(service)))["Role"]["Arn"])
    logging = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
    statements = [
        {
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
            "Condition": {"StringEquals": {"cloudwatch:namespace": NAMESPACE}},
        },
        {"Effect": "Allow", "Action": logging, "Resource": f"arn:aws:logs:*:*:log-group:{GROUP}:*"},
    ]
    document = json.dumps({"Version": "2012-10-17", "Statement": statements})
    iam.put_role_policy(RoleName=name, PolicyName="p", PolicyDocument=document)
    return arn


def metric(role_arn: str, namespace: str) -> dict[str, Any]:
    values = {"metricNamespace": namespace, "metricName": "m", "metricValue": "1", "metricUnit": "Count"}
    return {"cloudwatchMetric": {**values, "roleArn": role_arn}}


def run(cloud: Cloud, rule: str, actions: list[dict[str, Any]], log_role: str) -> list[dict[str, Any]]:
    """Make the rule, send one message, and return the failures that its error action wrote down."""
    payload = {
        "sql": f"SELECT * FROM '{rule}'",  # noqa: S608 - the rules engine's
        "actions": actions,
        "errorAction": {"cloudwatchLogs": {"logGroupName": GROUP, "roleArn": log_role}},
    }
    cloud.client("iot").create_topic_rule(ruleName=rule, topicRulePayload=payload)
    endpoint = {"endpoint_url": cloud.state.gateway_url}
    cloud.client("iot-data", **endpoint).publish(topic=rule, payload=b"{}")

    def lines() -> list[dict[str, Any]]:
        events = cloud.client("logs").filter_log_events(logGroupName=GROUP)["events"]
        found = [json.loads(event["message"]) for event in events]
        return [failure for line in found if line["ruleName"] == rule for failure in line["failures"]]

    return list(wait_until(lines))


def test_an_action_outside_of_the_roles_namespace_fails_and_the_other_one_works(cloud: Cloud) -> None:
    arn = role(cloud, "metrics")

    (failure,) = run(cloud, "two_namespaces", [metric(arn, NAMESPACE), metric(arn, "Denied")], arn)

    assert failure["failedAction"] == "CloudwatchMetricAction"
    assert failure["errorMessage"].endswith(
        "rule two_namespaces: cloudwatchMetric: role metrics must allow cloudwatch:PutMetricData on *"
    )
    metrics = cloud.client("cloudwatch").list_metrics(MetricName="m")["Metrics"]
    assert [each["Namespace"] for each in metrics] == [NAMESPACE]


def test_an_object_that_the_role_may_not_write_is_not_written(cloud: Cloud) -> None:
    arn = role(cloud, "no-objects")
    cloud.client("s3").create_bucket(Bucket="closed")

    (failure,) = run(cloud, "objects", [{"s3": {"bucketName": "closed", "key": "k", "roleArn": arn}}], arn)

    assert (failure["failedAction"], failure["failedResource"]) == ("S3Action", "closed")
    assert failure["errorMessage"].endswith("role no-objects must allow s3:PutObject on arn:aws:s3:::closed/k")
    assert "Contents" not in cloud.client("s3").list_objects_v2(Bucket="closed")


def test_a_role_of_another_service_is_not_assumed(cloud: Cloud) -> None:
    foreign = role(cloud, "foreign", "ec2.amazonaws.com")

    (failure,) = run(cloud, "foreign_role", [metric(foreign, NAMESPACE)], role(cloud, "logging"))

    assert "trust policy of foreign must allow sts:AssumeRole to iot.amazonaws.com" in failure["errorMessage"]
