"""Which operations on which topics a component's `accessControl` configuration allows."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

PUBSUB = "aws.greengrass.ipc.pubsub"
MQTT_PROXY = "aws.greengrass.ipc.mqttproxy"

_WILDCARD = re.compile(r"\$\{(.)\}|\*", re.S)
_MQTT_WILDCARD = re.compile(r"\$\{(.)\}|\*|(?:(?<=/)|^)\+(?=/|$)", re.S)


def is_authorized(access_control: Any, service: str, operation: str, resource: str) -> bool:
    """Tell whether one of a component's policies allows an operation on a resource.

    Args:
        access_control: `{service: {policy id: {"operations": [...], "resources": [...]}}}`; anything else allows
            nothing.
        service: `PUBSUB` or `MQTT_PROXY`.
        operation: Full name, such as `aws.greengrass#PublishToTopic`.
        resource: Topic or filter, compared as text.

    Returns:
        True when a policy lists the operation (or `*`) and a resource pattern that covers the resource. In a pattern
        `*` is any text, `${c}` the character c; for the MQTT proxy `+` is one whole level and
        a last `/#` the rest, but not the level before it: nucleus lite refuses `a` where `a/#` is allowed.
    """
    policies = access_control.get(service) if isinstance(access_control, dict) else None
    for policy in policies.values() if isinstance(policies, dict) else ():
        if not isinstance(policy, dict):
            continue
        operations, resources = policy.get("operations") or (), policy.get("resources") or ()
        if not isinstance(operations, list) or not isinstance(resources, list):
            continue
        if "*" not in operations and operation not in operations:
            continue
        patterns = (_pattern(text, service == MQTT_PROXY) for text in resources if isinstance(text, str))
        if any(pattern.fullmatch(resource) for pattern in patterns):
            return True
    return False


def with_thing(access_control: Any, name: str) -> Any:
    """Fill the device's name into access control, as the classic nucleus does since 2.6.0.

    Args:
        access_control: As in the component's configuration.
        name: What stands for `{iot:thingName}`.

    Returns:
        A copy.
    """
    if isinstance(access_control, dict):
        return {key: with_thing(value, name) for key, value in access_control.items()}
    if isinstance(access_control, list):
        return [with_thing(value, name) for value in access_control]
    return access_control.replace("{iot:thingName}", name) if isinstance(access_control, str) else access_control


@lru_cache(maxsize=4096)
def _pattern(resource: str, mqtt: bool) -> re.Pattern[str]:
    rest = ""
    if mqtt and resource == "#":
        resource, rest = "", ".*"
    elif mqtt and resource.endswith("/#"):
        resource, rest = resource[:-2], "/.*"
    expression, at = "", 0
    for wildcard in (_MQTT_WILDCARD if mqtt else _WILDCARD).finditer(resource):
        expression += re.escape(resource[at : wildcard.start()])
        if wildcard[1]:
            expression += re.escape(wildcard[1])
        else:
            expression += ".*" if wildcard[0] == "*" else "[^/#]*"
        at = wildcard.end()
    return re.compile(expression + re.escape(resource[at:]) + rest, re.S)
