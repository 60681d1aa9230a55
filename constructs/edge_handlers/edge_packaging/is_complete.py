"""Lambda entry: polled until the job has its artifact (Create, Update) or has ended (Delete)."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.edge_packaging.logic import follow, retire
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": retire(request.known_id, client("sagemaker"))}
    return follow(request.known_id, client("sagemaker"))
