"""Answers about a stack that is being changed wait for the change, so that whoever polls is told at once.

The CDK command line asks every 5 s whether a stack is ready, and asks first when nothing can be ready yet. Most stacks
take the twin less than a second: nearly all of a deploy would be pauses of the command line.
"""

from __future__ import annotations

import asyncio
import re
import time
from urllib.parse import parse_qs

from ministack import app as ministack_app

from twin.cloud.registry import Response, ServiceHandler, Settings, register_service

WAIT_LIMIT_S = 4.0
"""Below every client's read time-out, and below the pause after which the command line would ask again."""

_LOOK_S = 0.05
_CHANGING = re.compile(rb"<StackStatus>(?!REVIEW_)\w+_IN_PROGRESS</StackStatus>")


def waiting(handler: ServiceHandler, limit_s: float = WAIT_LIMIT_S) -> ServiceHandler:
    """Hold back DescribeStacks of one stack until it is at rest.

    Args:
        handler: The CloudFormation service.
        limit_s: The longest wait, s; then the answer is the one of the moment.

    Returns:
        The service in front of it. A stack in review, where nothing moves by itself, is answered at once.
    """

    async def handle(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> Response:
        answer = await handler(method, path, headers, body, query)
        if not _names_one_stack(body, query):
            return answer
        deadline = time.monotonic() + limit_s
        while _CHANGING.search(_content(answer)) and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
            answer = await handler(method, path, headers, body, query)
        return answer

    return handle


def _names_one_stack(body: bytes, query: dict[str, list[str]]) -> bool:
    asked = {**query, **parse_qs(body.decode("utf-8", "replace"))}
    return asked.get("Action") == ["DescribeStacks"] and bool(asked.get("StackName"))


def _content(answer: Response) -> bytes:
    content = answer[2]
    return content.encode() if isinstance(content, str) else content


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Put it before MiniStack's CloudFormation."""
    register_service("cloudformation", waiting(ministack_app.SERVICE_HANDLERS["cloudformation"]))
