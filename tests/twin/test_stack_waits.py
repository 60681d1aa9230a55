"""Answers about a stack that is being changed."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from twin.cloud.registry import Response
from twin.cloud.stack_waits import waiting

ONE_STACK = b"Action=DescribeStacks&StackName=one"


class Service:
    """Answers with one status after the other, the last one for ever."""

    def __init__(self, *statuses: str) -> None:
        self.calls = 0
        self._statuses = statuses
        self._next: Iterator[str] = iter(statuses)

    async def __call__(
        self, method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, list[str]]
    ) -> Response:
        self.calls += 1
        status = next(self._next, self._statuses[-1])
        return 200, {}, f"<StackStatus>{status}</StackStatus>"


def ask(service: Service, body: bytes, limit_s: float = 5.0) -> str:
    async def answer() -> Response:
        return await waiting(service, limit_s)("POST", "/", {}, body, {})

    return str(asyncio.run(answer())[2])


def test_an_answer_waits_until_the_stack_is_at_rest() -> None:
    service = Service("CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_COMPLETE")

    assert "CREATE_COMPLETE" in ask(service, ONE_STACK)
    assert service.calls == 3


@pytest.mark.parametrize("status", ["REVIEW_IN_PROGRESS", "UPDATE_COMPLETE", "ROLLBACK_FAILED"])
def test_a_stack_at_rest_is_answered_at_once(status: str) -> None:
    service = Service(status)

    assert status in ask(service, ONE_STACK)
    assert service.calls == 1


@pytest.mark.parametrize("body", [b"Action=DescribeStacks", b"Action=DescribeStackEvents&StackName=one"])
def test_other_questions_do_not_wait(body: bytes) -> None:
    service = Service("DELETE_IN_PROGRESS", "DELETE_COMPLETE")

    assert "DELETE_IN_PROGRESS" in ask(service, body)
    assert service.calls == 1


def test_the_wait_has_a_limit() -> None:
    service = Service("UPDATE_IN_PROGRESS")
    started = time.monotonic()

    assert "UPDATE_IN_PROGRESS" in ask(service, ONE_STACK, limit_s=0.2)
    assert 0.2 <= time.monotonic() - started < 3
