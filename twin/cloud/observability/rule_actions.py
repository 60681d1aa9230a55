"""Rule actions that MiniStack skips: s3, cloudwatchMetric, cloudwatchLogs; each with the rights of its own role."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, cloudwatch_logs, iam, iot, s3

from twin.cloud.credentials import role_session
from twin.cloud.observability.rule_message import CURRENT, RuleMessage

_SERVICE = "iot.amazonaws.com"
_SESSION_S = 900
_SIZES = ("Bytes", "Bits")
_COUNTED = tuple(
    f"{scale}{size.lower() if scale else size}" for size in _SIZES for scale in ("", "Kilo", "Mega", "Giga", "Tera")
)
#: PutMetricData's own (CloudWatch API reference, MetricDatum).
UNITS = {"Seconds", "Microseconds", "Milliseconds", "Percent", "None", "Count", "Count/Second", *_COUNTED} | {
    f"{unit}/Second" for unit in _COUNTED
}

Action = Callable[["RoleAction", RuleMessage, Any], Awaitable[None]]


class RoleAction:
    """One action of a rule that runs with a role.

    Args:
        rule: The rule's name; every error begins with it.
        kind: Such as `s3`.
        spec: The action's parameters.
    """

    def __init__(self, rule: str, kind: str, spec: dict[str, Any]) -> None:
        self.rule = rule
        self.kind = kind
        self._spec = spec

    def text(self, message: RuleMessage, name: str) -> str:
        """A parameter with its templates filled in.

        Raises:
            ValueError: It is missing, or a template has no value in the message.
        """
        return message.fill(f"{self.kind}.{name}", self._spec.get(name))

    def authorise(self, action: str, resource: str, **context: str) -> None:
        """Assume the role and ask for a permission; policies are evaluated with AUTH=true only.

        Args:
            action: Such as `s3:PutObject`.
            resource: ARN, or `*`.
            context: Condition keys, with `__` for the colon.

        Raises:
            PermissionError: The role cannot be assumed by AWS IoT, or does not allow it.
        """
        role = str(self._spec.get("roleArn") or "")
        key = _session(role)
        if not app.AUTH:
            return
        named = {name.replace("__", ":"): value for name, value in context.items()}
        service = action.partition(":")[0]
        denied = iam_evaluator.enforce(key, action, service, get_region(), resource_arn=resource, service_context=named)
        if denied is not None:
            raise PermissionError(f"role {role.rpartition('/')[2]} must allow {action} on {resource}")


_sessions: dict[str, tuple[float, str]] = {}


def _session(role_arn: str) -> str:
    """Access key of the role's session, a new one every quarter of an hour."""
    ends, key = _sessions.get(role_arn, (0.0, ""))
    # A deleted role ends its session at once.
    if ends < time.monotonic() or role_arn.rpartition("/")[2] not in iam._roles:
        credentials = role_session(role_arn, "iot-rule", _SERVICE, _SESSION_S)
        ends, key = time.monotonic() + _SESSION_S - 60, credentials.access_key_id
        _sessions[role_arn] = (ends, key)
    return key


async def _s3(action: RoleAction, message: RuleMessage, event: Any) -> None:
    bucket, key = action.text(message, "bucketName"), action.text(message, "key")
    action.authorise("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}")
    body = event.encode() if isinstance(event, str) else json.dumps(event).encode()
    status, _headers, answer = await s3.handle_request(
        "PUT", f"/{bucket}/{key}", {"content-type": "application/json"}, body, {}, internal=True
    )
    if status >= 400:
        raise RuntimeError(f"PutObject s3://{bucket}/{key} answered {status}: {_text(answer)}")


async def _cloudwatch_metric(action: RoleAction, message: RuleMessage, _event: Any) -> None:
    namespace, name = action.text(message, "metricNamespace"), action.text(message, "metricName")
    unit, value = action.text(message, "metricUnit"), action.text(message, "metricValue")
    if unit not in UNITS:
        raise ValueError(f"cloudwatchMetric.metricUnit must be one of CloudWatch's, got {unit!r}")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"cloudwatchMetric.metricValue must be a finite number, got {value!r}")
    action.authorise("cloudwatch:PutMetricData", "*", cloudwatch__namespace=namespace)
    datum = {"MetricName": name, "Value": number, "Unit": unit}
    cloudwatch._put_metric_data({}, {"Namespace": namespace, "MetricData": [datum]}, False, True)


async def _cloudwatch_logs(action: RoleAction, message: RuleMessage, event: Any) -> None:
    group = action.text(message, "logGroupName")
    stream = f"{action.rule}-{time.strftime('%Y-%m-%d', time.gmtime())}"
    arn = f"arn:aws:logs:{get_region()}:{get_account_id()}:log-group:{group}"
    for name in ("CreateLogStream", "DescribeLogStreams"):
        action.authorise(f"logs:{name}", f"{arn}:*")
    action.authorise("logs:PutLogEvents", f"{arn}:log-stream:{stream}")
    where = {"logGroupName": group, "logStreamName": stream}
    if stream not in (cloudwatch_logs._log_groups.get(group) or {"streams": {}})["streams"]:
        _accepted("CreateLogStream", cloudwatch_logs._create_log_stream(where))
    text = event if isinstance(event, str) else json.dumps(event)
    entry = {"timestamp": int(time.time() * 1000), "message": text}
    _accepted("PutLogEvents", cloudwatch_logs._put_log_events({**where, "logEvents": [entry]}))


def _accepted(call: str, answer: Any) -> None:
    status, _headers, body = answer
    if status >= 400:
        raise RuntimeError(f"{call} answered {status}: {_text(body)}")


def _text(body: Any) -> str:
    return (body.decode(errors="replace") if isinstance(body, bytes) else str(body))[:300]


_ACTIONS: dict[str, Action] = {"s3": _s3, "cloudwatchMetric": _cloudwatch_metric, "cloudwatchLogs": _cloudwatch_logs}


def install() -> None:
    """Run the actions where MiniStack would skip them; a failed one goes to the rule's error action."""
    dispatch, run = iot._dispatch_rule_action, iot._run_rule_actions

    async def dispatch_action(account: str, region: str, rule: str, action: dict[str, Any], event: Any) -> None:
        kind = next((name for name in _ACTIONS if name in action), None)
        if kind is None:
            await dispatch(account, region, rule, action, event)
            return
        with request_scope(account, region):
            try:
                await _ACTIONS[kind](RoleAction(rule, kind, action[kind] or {}), CURRENT.get(), event)
            except Exception as error:
                raise RuntimeError(f"rule {rule}: {kind}: {error}") from error

    async def run_actions(
        account: str, region: str, rule: dict[str, Any], payload: bytes, topic: str = "", client_id: str | None = None
    ) -> None:
        token = CURRENT.set(RuleMessage(topic, payload or b"", client_id))
        try:
            await run(account, region, rule, payload, topic, client_id)
        finally:
            CURRENT.reset(token)

    iot._dispatch_rule_action = dispatch_action
    iot._run_rule_actions = run_actions
    iot._RULE_ACTION_RESOURCE_KEYS = {
        **iot._RULE_ACTION_RESOURCE_KEYS,
        "s3": ("bucketName",),
        "cloudwatchMetric": ("metricName",),
        "cloudwatchLogs": ("logGroupName",),
    }
