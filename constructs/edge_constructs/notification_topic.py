"""Who is told when something is wrong."""

from collections.abc import Sequence
from typing import Any

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_sns as sns
from constructs import Construct

from edge_constructs.permission import ACCOUNT


class NotificationTopic(Construct):
    """An encrypted topic that takes messages over TLS, and from this account's alarms and event rules only.

    The key is its own: AWS's managed one cannot be used by CloudWatch, and the artifacts' key is none of its business.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        emails: Who is told; each has to confirm.
        alarms: Pattern of the alarms' ARNs.
        event_rules: ARNs of the EventBridge rules.
    """

    def __init__(
        self, scope: Construct, construct_id: str, *, emails: Sequence[str], alarms: str, event_rules: Sequence[str]
    ) -> None:
        super().__init__(scope, construct_id)
        key = kms.Key(
            self,
            "Key",
            description="Edgewright's notifications",
            enable_key_rotation=True,
            pending_window=Duration.days(7),
            removal_policy=RemovalPolicy.DESTROY,
        )
        for service in ("cloudwatch", "events"):
            key.add_to_resource_policy(
                iam.PolicyStatement(
                    principals=[iam.ServicePrincipal(f"{service}.amazonaws.com")],
                    actions=["kms:Decrypt", "kms:GenerateDataKey*"],
                    resources=["*"],
                    conditions={"StringEquals": {"aws:SourceAccount": ACCOUNT}},
                )
            )
        topic = sns.CfnTopic(self, "Resource", kms_master_key_id=key.key_arn)
        self.arn = topic.ref
        statements = [
            _publishing("cloudwatch", self.arn, {"ArnLike": {"aws:SourceArn": alarms}}),
            _publishing("events", self.arn, {"ArnEquals": {"aws:SourceArn": list(event_rules)}}),
            {
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "sns:Publish",
                "Resource": self.arn,
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            },
        ]
        sns.CfnTopicPolicy(
            self, "Policy", topics=[self.arn], policy_document={"Version": "2012-10-17", "Statement": statements}
        )
        for number, email in enumerate(emails, start=1):
            sns.CfnSubscription(self, f"Email{number}", topic_arn=self.arn, protocol="email", endpoint=email)


def _publishing(service: str, topic: str, conditions: dict[str, Any]) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sns:Publish",
        "Resource": topic,
        "Condition": conditions,
    }
