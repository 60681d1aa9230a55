"""Lambda entry: checks what is asked for; is_complete does it, in as many calls as it takes."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.device_registry.registry import Registry


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework.

    Nothing is changed here: after a Create that fails in this function nobody would send the Delete that undoes it.
    """
    request = parse(event)
    registry = Registry.of(request.properties)
    return {"PhysicalResourceId": request.known_id if request.type is RequestType.DELETE else registry.physical_id}
