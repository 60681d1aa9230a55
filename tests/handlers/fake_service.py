"""What the in-memory services have in common: botocore's errors, pages, and errors on demand."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError


def refusal(code: str, operation: str, message: str = "") -> ClientError:
    """The error that botocore raises for an answer with this code."""
    return ClientError({"Error": {"Code": code, "Message": message or code}}, operation)


class FakeService:
    """Base of the fakes: records calls, refuses those it is told to, and serves paginators.

    A subclass defines the operations as methods; `PAGES` names the ones that return lists, with the key of the list.
    """

    PAGES: dict[str, tuple[str, ...]] = {}  # noqa: RUF012
    PAGE_SIZE = 2  # small, so that every test with three entries needs a second page

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._before: dict[str, Callable[[], object]] = {}
        self._refusals: dict[str, list[ClientError]] = defaultdict(list)

    def refuse(self, operation: str, code: str, *, times: int = 1, message: str = "") -> None:
        """Let the next calls of an operation fail."""
        self._refusals[operation] += [refusal(code, operation, message)] * times

    def before(self, operation: str, action: Callable[[], object]) -> None:
        """Let something happen just before the next call of an operation: what another actor does meanwhile."""
        self._before[operation] = action

    def called(self, operation: str) -> list[dict[str, Any]]:
        """Arguments of the calls of an operation, in order."""
        return [arguments for name, arguments in self.calls if name == operation]

    def record(self, operation: str, **arguments: Any) -> None:
        """Note a call, and refuse it where a test wants that."""
        self.calls.append((operation, arguments))
        self._before.pop(operation, lambda: None)()
        if self._refusals[operation]:
            raise self._refusals[operation].pop(0)

    def get_paginator(self, operation: str) -> "FakePaginator":
        return FakePaginator(self, operation)


class FakePaginator:
    """Cuts an operation's lists into pages; like botocore's it calls the service only while it is read."""

    def __init__(self, service: FakeService, operation: str) -> None:
        self._service = service
        self._operation = operation

    def paginate(self, PaginationConfig: dict[str, Any] | None = None, **arguments: Any) -> Iterator[dict[str, Any]]:  # noqa: N803
        keys = self._service.PAGES[self._operation]
        whole = getattr(self._service, self._operation)(**arguments)
        entries = [(key, entry) for key in keys for entry in whole[key]]
        size = self._service.PAGE_SIZE
        for start in range(0, max(len(entries), 1), size):
            page: dict[str, Any] = {key: [] for key in keys}
            for key, entry in entries[start : start + size]:
                page[key].append(entry)
            yield page
