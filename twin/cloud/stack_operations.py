"""Stack operations are answered once they have ended, if that is soon.

The CDK command line looks at a stack's state at once and then every five seconds. AWS answers before the operation has
begun, so each level of stacks costs up to five seconds of waiting for nothing; here most operations take less than one.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qs

from ministack import app
from ministack.services import cloudformation

from twin.cloud.registry import Response, Settings, register_service

HOLD_S = 30.0
"""Longest wait, well below the minute after which AWS clients give a call up; the operation goes on after it, and the
caller looks again as with AWS."""

_LOOK_S = 0.02
_OPERATIONS = frozenset(("CreateStack", "UpdateStack", "DeleteStack", "ExecuteChangeSet"))
_NOT_BEGUN = "REVIEW_IN_PROGRESS"


def under_way(name: str) -> bool:
    """Whether an operation on a stack is under way.

    Args:
        name: The stack's name or ARN.
    """
    return any(
        name in (stack.get("StackName"), stack.get("StackId"))
        and str(stack.get("StackStatus", "")).endswith("_IN_PROGRESS")
        and stack["StackStatus"] != _NOT_BEGUN
        for stack in list(cloudformation._stacks.values())
    )


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Hold the answers of the operations that the CDK command line waits for."""
    answer_by_ministack = app.SERVICE_HANDLERS["cloudformation"]

    async def answer(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> Response:
        response: Any = await answer_by_ministack(method, path, headers, body, query)
        action, name = _asked(body, query)
        if response[0] < 400 and action in _OPERATIONS and name:
            await _hold(name)
        return (response[0], response[1], response[2])

    register_service("cloudformation", answer)


async def _hold(name: str) -> None:
    try:
        async with asyncio.timeout(HOLD_S):
            await asyncio.sleep(_LOOK_S)  # the operation begins in a task of its own
            while under_way(name):
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return


def _asked(body: bytes, query: dict[str, list[str]]) -> tuple[str, str]:
    """Action and stack of a request in the query protocol; empty where it names none."""
    fields = {**query, **parse_qs(body.decode("utf-8", "replace"))}
    first = {key: value[0] if isinstance(value, list) else value for key, value in fields.items() if value}
    return first.get("Action", ""), first.get("StackName", "")
