"""Lambda entry: Create and Update start the job, Delete stops it; is_complete finishes both."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.edge_packaging.logic import EdgePackaging, retire, start
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        retire(request.known_id, client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": start(EdgePackaging.of(request.properties), client("sagemaker"))}
