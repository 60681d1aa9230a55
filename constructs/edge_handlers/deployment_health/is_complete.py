"""Lambda entry: polled until enough devices are healthy; a Delete has nothing to take away."""

import time
from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deployment_health.health_check import HealthCheck
from edge_handlers.deployment_health.logic import follow
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": True}
    return follow(
        HealthCheck.of(request.properties),
        client("greengrassv2"),
        client("iot"),
        is_update=request.type is RequestType.UPDATE,
        is_last=time.time() >= float(event["WaitUntil"]),
    )
