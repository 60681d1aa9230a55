"""Lambda entry: Create and Update only name the resource, Delete sweeps."""

from typing import Any

from edge_handlers.component_sweep.logic import ComponentSweep, sweep_away
from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    sweep = ComponentSweep.of(request.properties)
    if request.type is RequestType.CREATE:
        return {"PhysicalResourceId": sweep.physical_id}
    if request.type is RequestType.DELETE:
        sweep_away(sweep, client("greengrassv2"), Deadline.of(context))
    # Another target keeps the id: the Delete of a replaced sweep would take the components its successor needs.
    return {"PhysicalResourceId": request.known_id}
