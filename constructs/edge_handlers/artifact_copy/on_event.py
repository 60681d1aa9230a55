"""Lambda entry: Create and Update place the artifact, Delete keeps it."""

from typing import Any

from edge_handlers.artifact_copy.logic import ArtifactCopy, place
from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return place(ArtifactCopy.of(request.properties), client("s3"))
