"""Executions of state machines, which wait for custom resources: quick at first, and stopped where they stand."""

from __future__ import annotations

import contextvars
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ministack.services import stepfunctions

from twin.cloud.ministack.patches import patch, require

require("services.stepfunctions._stop_execution", why="executions of a deleted stack are stopped", signature="(data)")

FIRST_S = 0.5
"""The shortest pause before a state machine asks again: a question costs two function calls."""

SHARE = 0.25
"""Of the time since the first pause."""


class QuickWaits:
    """Pauses of state machines' executions, each of which has a thread of its own.

    The Provider framework waits by retrying one call at a fixed interval, some seconds, which suits work that takes
    minutes on AWS. Here the same work takes a second. A retry comes after a quarter of the time that the execution has
    been retrying, at most after its own interval: a short wait ends early, and a long one loses few of its retries.

    Args:
        clock: Seconds, ever rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: weakref.WeakKeyDictionary[threading.Thread, float] = weakref.WeakKeyDictionary()
        self._waiting = threading.local()

    def pause(self, sleep: Callable[[float], None], seconds: float) -> None:
        """Pause before a retry, or for a Wait state as long as it says.

        Args:
            sleep: The pause as the state machine says, s.
            seconds: What it says.
        """
        if not getattr(self._waiting, "exactly", False):
            now = self._clock()
            began = self._began.setdefault(threading.current_thread(), now)
            seconds = min(seconds, max(FIRST_S, SHARE * (now - began)))
        sleep(seconds)

    def exactly(self, wait_state: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a Wait state: its time is part of what the state machine does."""
        self._waiting.exactly = True
        try:
            return wait_state(*arguments, **named)
        finally:
            self._waiting.exactly = False


_waits = QuickWaits()


class _StoppedError(BaseException):
    """Leaves an execution's thread, past every Catch of its definition."""


class _Execution:
    """A running execution: whether it shall stop, and whether its thread has ended."""

    def __init__(self) -> None:
        self.stop, self.ended = threading.Event(), threading.Event()


_running: dict[str, _Execution] = {}
_own: contextvars.ContextVar[_Execution | None] = contextvars.ContextVar("execution", default=None)


@patch(
    "services.stepfunctions._run_execution",
    why="an execution that is stopped ends before its next call, not after its pause",
    signature="(exec_arn)",
)
def _run_execution(run: Callable[[str], None], arn: str) -> None:
    execution = _running[arn] = _Execution()
    _own.set(execution)
    try:
        run(arn)
    except _StoppedError:
        pass
    finally:
        _running.pop(arn, None)
        execution.ended.set()


def stop_executions(told: str, limit_s: float) -> None:
    """Stop the executions whose input holds a text, and wait until what they are doing has ended; on a worker thread.

    Args:
        told: Such as a stack's ARN.
        limit_s: Longest wait.
    """
    deadline = time.monotonic() + limit_s
    for arn, record in list(stepfunctions._executions.items()):
        execution = _running.get(arn)
        if execution is None or told not in str(record.get("input", "")):
            continue
        execution.stop.set()
        stepfunctions._stop_execution({"executionArn": arn, "cause": "the stack is being deleted"})
        execution.ended.wait(max(0.0, deadline - time.monotonic()))


@patch("services.stepfunctions._scaled_sleep", why="retries come sooner at first", signature="(seconds)")
def _pause(sleep: Callable[[float], None], seconds: float) -> None:
    execution = _own.get()
    if execution is None:
        _waits.pause(sleep, seconds)
        return

    def sleep_until_stopped(seconds: float) -> None:
        execution.stop.wait(seconds)

    _waits.pause(sleep_until_stopped, seconds)
    if execution.stop.is_set():
        raise _StoppedError


@patch(
    "services.stepfunctions._execute_wait",
    why="the time of a Wait state is kept",
    signature="(state_def, raw_input, ctx=None)",
)
def _execute_wait(wait_state: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return _waits.exactly(wait_state, *arguments, **named)
