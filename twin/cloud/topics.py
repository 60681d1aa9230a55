"""Encrypted topics: whoever publishes needs the key, which MiniStack does not look at.

A service's message is refused where the key's policy does not let that service encrypt, in silence as on AWS: an alarm
or a rule has no caller to tell. What the service tells KMS about itself is what AWS documents: EventBridge leaves
`aws:SourceAccount` and `aws:SourceArn` out (SNS developer guide, "Encrypting Amazon SNS topics with encrypted queue
subscriptions" and "Key management", permissions of event sources), the topic is always the encryption context.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import kms, sns

from twin.cloud.ministack.patches import patch

logger = logging.getLogger("twin.topics")

_publisher: contextvars.ContextVar[str] = contextvars.ContextVar("publisher", default="")
#: What publishing to an encrypted topic does with its key.
ACTIONS = ("kms:GenerateDataKey", "kms:Decrypt")
#: Services that tell KMS for whom they act.
_TELLS_ITS_SOURCE = frozenset({"cloudwatch.amazonaws.com"})


@patch(
    "services.eventbridge._dispatch_to_sns",
    why="messages of EventBridge need a topic's key",
    signature="(arn, payload)",
)
def _dispatch_to_sns(by_ministack: Callable[..., None], arn: str, payload: Any) -> None:
    if refusal := refused(arn, "events.amazonaws.com"):
        logger.warning("EventBridge could not tell a topic: %s", refusal)
        return
    by_ministack(arn, payload)


@patch(
    "services.cloudwatch._dispatch_alarm_actions",
    why="messages of alarms need a topic's key",
    signature="(alarm, old_state, new_state, reason)",
)
def _dispatch_alarm_actions(by_ministack: Callable[..., None], *arguments: Any) -> None:
    token = _publisher.set("cloudwatch.amazonaws.com")
    try:
        by_ministack(*arguments)
    finally:
        _publisher.reset(token)


@patch(
    "services.sns._fanout",
    why="an alarm hands its messages over here",
    signature="(topic_arn, msg_id, message, subject, message_structure='', message_attributes=None, "
    "message_group_id='', message_dedup_id='')",
)
def _fanout(by_ministack: Callable[..., None], topic_arn: str, *arguments: Any, **named: Any) -> None:
    if (service := _publisher.get()) and (refusal := refused(topic_arn, service)):
        logger.warning("an alarm could not tell a topic: %s", refusal)
        return
    by_ministack(topic_arn, *arguments, **named)


def refused(topic_arn: str, service: str) -> str:
    """Say why a service may not encrypt for a topic.

    Args:
        topic_arn: The topic's.
        service: Its principal, such as `events.amazonaws.com`.

    Returns:
        The text of the refusal; empty where the topic is not encrypted, is not there, or the key's policy allows it.
    """
    topic = sns._topic_by_arn_any_scope(topic_arn)
    key = (topic or {}).get("attributes", {}).get("KmsMasterKeyId")
    if not key:
        return ""
    found = None if str(key).endswith("alias/aws/sns") else kms.key_policy_for_arn(key)
    context: dict[str, Any] = {"kms:encryptioncontext:aws:sns:topicarn": topic_arn}
    if service in _TELLS_ITS_SOURCE:
        context["aws:sourceaccount"] = get_account_id()
    for action in ACTIONS:
        asked = iam_evaluator.EvalContext(
            service, "Service", "", action, str(key), get_region(), service_context=context
        )
        policy = found[0] if found else None
        if iam_evaluator.evaluate_resource_policy(policy, asked, service).decision != "Allow":
            return f"{service} is not allowed {action} by the policy of {key}, which encrypts {topic_arn}"
    return ""
