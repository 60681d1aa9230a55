"""Lambda entry: Create and Update start the job, Delete begins to take it away; is_complete finishes both."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.neo_compilation.job import CompilationJob
from edge_handlers.neo_compilation.logic import retire, start
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        retire(request.known_id, client("sagemaker"))
        return {"PhysicalResourceId": request.known_id}
    return start(CompilationJob.of(request.properties), client("sagemaker"))
