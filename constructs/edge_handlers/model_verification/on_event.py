"""Lambda entry: Create and Update start the endpoint, Delete begins to take it away; is_complete finishes both."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.model_verification.endpoint import remove, start
from edge_handlers.model_verification.verification import Verification
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        remove(request.known_id, client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    verification = Verification.of(request.properties)
    start(verification, client("sagemaker"), client("s3"))
    return {"PhysicalResourceId": verification.name}
