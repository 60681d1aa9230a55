"""A function that raises an error keeps its process, as it keeps its execution environment on AWS.

MiniStack ends the process after each error. The Provider framework asks again by raising one: each question of a waiter
would take a new process.
"""

from __future__ import annotations

import threading
from typing import Any

from ministack.core import lambda_runtime


class KeptWorkers:
    """Decides on a worker's process after an invocation, in place of MiniStack's worker.

    Only an error that the function's own code raised leaves the process as it was: it came with the trace of it, as the
    answer to this invocation. After a time-out or a broken answer the process is ended.
    """

    def __init__(self) -> None:
        self._invoke, self._signal, self._collect = (
            lambda_runtime.Worker.invoke,
            lambda_runtime._signal,
            lambda_runtime._collect,
        )
        self._held = threading.local()

    def signal(self, process: Any) -> None:
        """Hold the end of a process back while its worker is in an invocation."""
        if getattr(self._held, "invoking", False):
            self._held.process = process
        else:
            self._signal(process)

    def collect(self, process: Any, deadline: float) -> None:
        """Wait for a process whose end is not held back."""
        if not getattr(self._held, "invoking", False):
            self._collect(process, deadline)

    def invoke(self, worker: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Run one invocation; the worker's lock is MiniStack's matter."""
        self._held.invoking, self._held.process = True, None
        try:
            answer: dict[str, Any] = self._invoke(worker, *arguments, **named)
        finally:
            self._held.invoking = False
            process, self._held.process = self._held.process, None
        if process is not None:
            if answer.get("trace") is not None and process.poll() is None and _is_pooled(worker):
                worker._proc = process
            else:
                lambda_runtime.kill_workers([_Ended(process)])
        return answer


def _is_pooled(worker: Any) -> bool:
    """Whether the function is still there: its deletion ends the workers that it finds in the pool."""
    with lambda_runtime._lock:
        return any(worker in workers for workers in lambda_runtime._workers.values())


class _Ended:
    """As much of a worker as its end takes; its folder stays for the process that comes after."""

    def __init__(self, process: Any) -> None:
        self._proc = process

    def _discard_tmpdir(self) -> None:
        """Leave it to the worker."""


def install() -> None:
    """Put it around MiniStack's workers."""
    kept = KeptWorkers()
    lambda_runtime._signal, lambda_runtime._collect = kept.signal, kept.collect
    lambda_runtime.Worker.invoke = lambda worker, *arguments, **named: kept.invoke(worker, *arguments, **named)
