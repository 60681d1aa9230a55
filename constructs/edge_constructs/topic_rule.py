"""An IoT rule with a role of its own, whose failures are written down."""

from collections.abc import Sequence

from aws_cdk import aws_iot as iot
from constructs import Construct

from edge_constructs.permission import ACCOUNT, arn, merged
from edge_constructs.rule_action import RuleAction
from edge_constructs.service_role import ServiceRole

SQL_VERSION = "2016-03-23"


class TopicRule(Construct):
    """Sends the messages of a topic filter to AWS services; what fails goes to a log that names rule and action.

    Args:
        scope: Parent construct.
        construct_id: Id below it.
        name: Letters, digits and `_`.
        description: One sentence for the console.
        topics: Topic filter.
        where: Condition on the message; empty for every message.
        select: What the actions get, the whole message by default.
        actions: What happens, at least one.
        failures: What happens to a message whose actions failed, with the reason.
    """

    def __init__(
        self,
        scope: Construct,
        construct_id: str,
        *,
        name: str,
        description: str,
        topics: str,
        where: str = "",
        select: str = "*",
        actions: Sequence[RuleAction],
        failures: RuleAction,
    ) -> None:
        super().__init__(scope, construct_id)
        needed = [permission for action in (*actions, failures) for permission in action.permissions]
        source = {
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
            "ArnLike": {"aws:SourceArn": arn("iot", f"rule/{name}")},
        }
        role = ServiceRole(
            self, "Role", service="iot.amazonaws.com", permissions=merged(needed), trust_conditions=source
        )
        condition = ["WHERE", where] if where else []
        self.resource = iot.CfnTopicRule(
            self,
            "Resource",
            rule_name=name,
            topic_rule_payload=iot.CfnTopicRule.TopicRulePayloadProperty(
                sql=" ".join(["SELECT", select, "FROM", f"'{topics}'", *condition]),
                aws_iot_sql_version=SQL_VERSION,
                description=description,
                actions=[action.make(role.arn) for action in actions],
                error_action=failures.make(role.arn),
            ),
        )
