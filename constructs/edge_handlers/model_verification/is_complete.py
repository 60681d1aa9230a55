"""Lambda entry: polled until the sample is answered (Create, Update) or the endpoint is gone (Delete)."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.model_verification.endpoint import follow, remove
from edge_handlers.model_verification.verification import Verification
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"IsComplete": remove(request.known_id, client("sagemaker"))}
    verification = Verification.of(request.properties)
    return follow(verification, client("sagemaker"), client("sagemaker-runtime"), client("s3"))
