"""Lambda entry: Create and Update only name the resource, Delete empties the bucket."""

from typing import Any

from edge_handlers.bucket_sweep.logic import BucketSweep, empty
from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    sweep = BucketSweep.of(request.properties)
    if request.type is RequestType.DELETE:
        empty(sweep, client("s3"), Deadline.of(context))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": sweep.physical_id}
