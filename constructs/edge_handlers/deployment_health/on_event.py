"""Lambda entry: sets the time by which the devices must be healthy; is_complete looks at them."""

import time
from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deployment_health.health_check import HealthCheck


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework, which hands `WaitUntil` (s since 1970) on to is_complete."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    check = HealthCheck.of(request.properties)
    return {"PhysicalResourceId": check.physical_id, "WaitUntil": int(time.time()) + check.timeout_s}
