"""Lambda entry: versions by Create and Update, the sweep's events by the sweep's own handler.

One function serves both resources: a stage's versions and what removes them at destroy belong together.
"""

from typing import Any

from edge_handlers.component_sweep.on_event import handler as sweep
from edge_handlers.component_version.logic import ComponentVersion, ensure
from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.service_client import client

SWEEP = "Custom::ComponentSweep"


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    if event.get("ResourceType") == SWEEP:
        return sweep(event, context)
    request = parse(event)
    if request.type is RequestType.DELETE:
        # Replaced, rolled back or left out: a device may need it still. The sweep takes it with the stage.
        return {"PhysicalResourceId": request.known_id}
    wanted = ComponentVersion.of(request.properties)
    was_there = ensure(wanted, client("greengrassv2"), Deadline.of(context))
    return {"PhysicalResourceId": wanted.arn, "Data": {"Arn": wanted.arn, "WasThere": str(was_there).lower()}}
