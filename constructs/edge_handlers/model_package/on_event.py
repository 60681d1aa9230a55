"""Lambda entry: Create and Update make the package, Delete keeps it."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.model_package.logic import ModelPackage, build
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return build(ModelPackage.of(request.properties), client("s3"), client("kms"), Deadline.of(context))
