"""Lambda entry: Create and Update optimise the model, Delete keeps the result."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.onnx_compilation.logic import OnnxCompilation, build
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return build(OnnxCompilation.of(request.properties), client("s3"), Deadline.of(context))
