"""Lambda entry: fleet indexing and claim certificates."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.fleet_provisioning.logic import FleetSettings, switch_on, take_away
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda passes it
    """Answer one event of the Provider framework."""
    request = parse(event)
    settings = FleetSettings.of(request.properties)
    if request.type is RequestType.DELETE:
        # A fleet under another name has taken over: its groups are there, and keep the index on.
        take_away(settings, client("iot"))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": switch_on(settings, client("iot"))}
