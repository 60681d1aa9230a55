"""What IoT rules do with messages, each action with what its role needs for it."""

from collections.abc import Callable
from dataclasses import dataclass

from aws_cdk import RemovalPolicy
from aws_cdk import aws_iot as iot
from aws_cdk import aws_logs as logs
from constructs import Construct

from edge_constructs.acknowledgement import acknowledge
from edge_constructs.artifact_bucket import RESULTS, ArtifactBucket
from edge_constructs.permission import Permission, arn

Action = iot.CfnTopicRule.ActionProperty


@dataclass(frozen=True)
class RuleAction:
    """One action.

    Attributes:
        make: Makes the action for the ARN of the rule's role.
        permissions: What that role needs.
    """

    make: Callable[[str], Action]
    permissions: tuple[Permission, ...]


def put_metric(namespace: str, name: str, value: str, unit: str) -> RuleAction:
    """Put a metric; IoT gives it no dimensions, so what it is about is part of its name.

    Args:
        namespace: Exact.
        name: May hold `${…}`.
        value: A number, or `${…}` that gives one.
        unit: Of CloudWatch.
    """

    def make(role: str) -> Action:
        metric = iot.CfnTopicRule.CloudwatchMetricActionProperty(
            metric_namespace=namespace, metric_name=name, metric_value=value, metric_unit=unit, role_arn=role
        )
        return Action(cloudwatch_metric=metric)

    permission = Permission(
        ("cloudwatch:PutMetricData",),
        ("*",),
        conditions={"StringEquals": {"cloudwatch:namespace": namespace}},
        wildcard_reason="metrics are no resources: the condition narrows the action to one namespace",
    )
    return RuleAction(make, (permission,))


def put_result(bucket: ArtifactBucket, key: str) -> RuleAction:
    """Write the message as an object.

    Args:
        bucket: Which one.
        key: What follows `results/`; may hold `${…}`.
    """

    def make(role: str) -> Action:
        return Action(
            s3=iot.CfnTopicRule.S3ActionProperty(bucket_name=bucket.name, key=f"{RESULTS}{key}", role_arn=role)
        )

    return RuleAction(make, tuple(bucket.adding(RESULTS)))


class RuleLog(Construct):
    """A log group that rules write to.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: A person looks for it.
    """

    def __init__(self, scope: Construct, construct_id: str, *, name: str) -> None:
        super().__init__(scope, construct_id)
        self.name = name
        self.resource = logs.CfnLogGroup(self, "Resource", log_group_name=name, retention_in_days=30)
        self.resource.apply_removal_policy(RemovalPolicy.DESTROY)
        acknowledge(
            self.resource,
            {
                "NIST.800.53.R5-CloudWatchLogGroupEncrypted": "the lines name devices, models and error codes, neither "
                "images nor features; CloudWatch encrypts them with a key of its own"
            },
        )

    @property
    def action(self) -> RuleAction:
        """Write the message as a line."""
        group = arn("logs", f"log-group:{self.name}:*")

        def make(role: str) -> Action:
            # The reference makes the rule wait for the group.
            return Action(
                cloudwatch_logs=iot.CfnTopicRule.CloudwatchLogsActionProperty(
                    log_group_name=self.resource.ref, role_arn=role
                )
            )

        permission = Permission(
            ("logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"),
            (group,),
            wildcard_reason="the rules engine names the log streams",
        )
        return RuleAction(make, (permission,))
