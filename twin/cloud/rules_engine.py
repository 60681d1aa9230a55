"""The rules engine's missing parts: actions with the rights of their own role, templates, functions of the SQL."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, cloudwatch_logs, iam, iot, s3

from twin.clock import CLOCK
from twin.cloud.credentials import role_session
from twin.cloud.ministack.patches import patch

logger = logging.getLogger("twin.iot_rules")

UNDEFINED: Any = iot._MISSING
"""What a function gives that has no value; a WHERE clause over it does not match."""

_LETTERS = re.compile(r"([a-zA-Z])\1*")
#: The patterns of Joda's DateTimeFormat that have the same meaning in every locale.
_JODA = {"yyyy": "%Y", "MM": "%m", "dd": "%d", "HH": "%H", "mm": "%M", "ss": "%S"}


def get(collection: Any, key: Any) -> Any:
    """Take one value out of a list by its index, of an object by its key, or of a string by the character's index.

    Args:
        collection: Any value.
        key: A whole number for lists and strings, a string for objects.

    Returns:
        The value; UNDEFINED where there is none or the types do not fit.
    """
    if isinstance(collection, dict):
        return collection.get(key, UNDEFINED) if isinstance(key, str) else UNDEFINED
    fits = isinstance(collection, list | str) and isinstance(key, int) and not isinstance(key, bool)
    return collection[key] if fits and 0 <= key < len(collection) else UNDEFINED


def parse_time(pattern: Any, milliseconds: Any) -> Any:
    """Write a time, in UTC.

    Args:
        pattern: Of Joda, made of yyyy, MM, dd, HH, mm, ss and characters that are no letters.
        milliseconds: Since 1970.

    Returns:
        The text; UNDEFINED for arguments of other types or another pattern, which is logged.
    """
    if not isinstance(pattern, str) or isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return UNDEFINED
    if unknown := [found[0] for found in _LETTERS.finditer(pattern) if found[0] not in _JODA]:
        logger.warning("parse_time: pattern may hold %s, got %r in %r", ", ".join(_JODA), unknown[0], pattern)
        return UNDEFINED
    directives = _LETTERS.sub(lambda found: _JODA[found[0]], pattern.replace("%", "%%"))
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime(directives)
    except (ValueError, OverflowError, OSError):
        return UNDEFINED


_FUNCTIONS = {"get": get, "parse_time": parse_time}


@patch(
    "services.iot._eval_select_function",
    why="SELECT, WHERE and substitution templates can call get and parse_time",
    signature="(name, args, topic, payload, message, client_id=None)",
)
def _evaluate_function(
    evaluate: Callable[..., Any],
    name: str,
    args: list[str],
    topic: str,
    payload: bytes,
    message: Any,
    client_id: str | None = None,
) -> Any:
    function = _FUNCTIONS.get(name)
    if function is None:
        return evaluate(name, args, topic, payload, message, client_id)
    if len(args) != 2:
        return UNDEFINED
    return function(*(iot._eval_select_expr(argument, topic, payload, message, client_id) for argument in args))


@patch("services.iot._IMPLEMENTED_SQL_FUNCS", why="get and parse_time are known", signature="frozenset")
def _known_functions(by_ministack: frozenset[str]) -> frozenset[str]:
    return by_ministack | set(_FUNCTIONS)


_TEMPLATE = re.compile(r"\$\{([^{}]*)\}")


@dataclass(frozen=True)
class RuleMessage:
    """One message on its way through the rules engine.

    Attributes:
        topic: Where it was published.
        payload: Its bytes.
        client_id: Of the client that published it; None for others than MQTT's.
    """

    topic: str
    payload: bytes
    client_id: str | None

    def fill(self, where: str, template: Any) -> str:
        """Replace every `${expression}` by its value for the original payload, as AWS IoT does.

        Args:
            where: What an error calls the template, such as `cloudwatchMetric.metricValue`.
            template: Text; expressions hold no braces.

        Returns:
            The text.

        Raises:
            ValueError: The template is no text, or an expression has no value in this message.
        """
        if not isinstance(template, str):
            raise ValueError(f"{where} must be a string, got {template!r}")
        document = iot._rule_message(self.payload)

        def value(match: re.Match[str]) -> str:
            found = iot._eval_select_expr(match[1], self.topic, self.payload, document, self.client_id)
            text = iot._sql_as_string(found)
            if text is None:
                raise ValueError(f"{where}: {match[0]} has no value in the message on {self.topic}")
            return str(text)

        return _TEMPLATE.sub(value, template)


CURRENT: ContextVar[RuleMessage] = ContextVar("twin_rule_message")
"""The message whose rules are being run."""


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
        key = _session(role, f"arn:aws:iot:{get_region()}:{get_account_id()}:rule/{self.rule}")
        if not app.AUTH:
            return
        named = {name.replace("__", ":"): value for name, value in context.items()}
        service = action.partition(":")[0]
        denied = iam_evaluator.enforce(key, action, service, get_region(), resource_arn=resource, service_context=named)
        if denied is not None:
            raise PermissionError(f"role {role.rpartition('/')[2]} must allow {action} on {resource}")


_sessions: dict[tuple[str, str], tuple[float, str]] = {}


def _session(role_arn: str, rule_arn: str) -> str:
    """Access key of the role's session, a new one every quarter of an hour."""
    ends, key = _sessions.get((role_arn, rule_arn), (0.0, ""))
    # A deleted role ends its session at once.
    if ends < time.monotonic() or role_arn.rpartition("/")[2] not in iam._roles:
        credentials = role_session(role_arn, "iot-rule", _SERVICE, _SESSION_S, source_arn=rule_arn)
        ends, key = time.monotonic() + _SESSION_S - 60, credentials.access_key_id
        _sessions[role_arn, rule_arn] = (ends, key)
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
    stream = f"{action.rule}-{time.strftime('%Y-%m-%d', time.gmtime(CLOCK.time()))}"
    arn = f"arn:aws:logs:{get_region()}:{get_account_id()}:log-group:{group}"
    for name in ("CreateLogStream", "DescribeLogStreams"):
        action.authorise(f"logs:{name}", f"{arn}:*")
    action.authorise("logs:PutLogEvents", f"{arn}:log-stream:{stream}")
    where = {"logGroupName": group, "logStreamName": stream}
    if stream not in (cloudwatch_logs._log_groups.get(group) or {"streams": {}})["streams"]:
        _accepted("CreateLogStream", cloudwatch_logs._create_log_stream(where))
    text = event if isinstance(event, str) else json.dumps(event)
    entry = {"timestamp": int(CLOCK.time() * 1000), "message": text}
    _accepted("PutLogEvents", cloudwatch_logs._put_log_events({**where, "logEvents": [entry]}))


def _accepted(call: str, answer: Any) -> None:
    status, _headers, body = answer
    if status >= 400:
        raise RuntimeError(f"{call} answered {status}: {_text(body)}")


def _text(body: Any) -> str:
    return (body.decode(errors="replace") if isinstance(body, bytes) else str(body))[:300]


_ACTIONS: dict[str, Action] = {"s3": _s3, "cloudwatchMetric": _cloudwatch_metric, "cloudwatchLogs": _cloudwatch_logs}


@patch(
    "services.iot._dispatch_rule_action",
    why="the actions s3, cloudwatchMetric and cloudwatchLogs are run; a failed one goes to the rule's error action",
    signature="async (account_id, region, rule_name, action, event)",
)
async def _dispatch_action(
    dispatch: Callable[..., Awaitable[None]], account: str, region: str, rule: str, action: dict[str, Any], event: Any
) -> None:
    kind = next((name for name in _ACTIONS if name in action), None)
    if kind is None:
        await dispatch(account, region, rule, action, event)
        return
    with request_scope(account, region):
        try:
            await _ACTIONS[kind](RoleAction(rule, kind, action[kind] or {}), CURRENT.get(), event)
        except Exception as error:
            raise RuntimeError(f"rule {rule}: {kind}: {error}") from error


@patch(
    "services.iot._run_rule_actions",
    why="templates in actions take values out of the original message",
    signature="async (account_id, region, rule, payload, topic='', client_id=None)",
)
async def _run_actions(
    run: Callable[..., Awaitable[None]],
    account: str,
    region: str,
    rule: dict[str, Any],
    payload: bytes,
    topic: str = "",
    client_id: str | None = None,
) -> None:
    token = CURRENT.set(RuleMessage(topic, payload or b"", client_id))
    try:
        await run(account, region, rule, payload, topic, client_id)
    finally:
        CURRENT.reset(token)


@patch("services.iot._RULE_ACTION_RESOURCE_KEYS", why="the actions that are run are known", signature="dict")
def _known_actions(by_ministack: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {
        **by_ministack,
        "s3": ("bucketName",),
        "cloudwatchMetric": ("metricName",),
        "cloudwatchLogs": ("logGroupName",),
    }
