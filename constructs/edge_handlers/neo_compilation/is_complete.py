"""Lambda entry: polled until the job has its artifact (Create, Update) or is gone (Delete)."""

from typing import Any

from edge_handlers.custom_resource import Request, RequestType, parse
from edge_handlers.neo_compilation.job import CompilationJob
from edge_handlers.neo_compilation.logic import discard_unfinished, follow, retire
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one poll of the Provider framework."""
    request = parse(event)
    sagemaker = client("sagemaker")
    if request.type is RequestType.DELETE:
        return {"IsComplete": retire(request.known_id, sagemaker)}
    answer = follow(request.known_id, sagemaker)
    before = _job_before(request)
    if answer["IsComplete"] and before not in (None, request.known_id) and not discard_unfinished(before, sagemaker):
        return {"IsComplete": False}
    return answer


def _job_before(request: Request) -> str | None:
    """Name of the job of the old properties; None where they do not make one (an older release wrote them)."""
    try:
        return CompilationJob.of(request.old_properties).name
    except ValueError:
        return None
