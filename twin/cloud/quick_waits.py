"""A state machine that asks again and again asks more often at first.

The Provider framework waits by retrying one call at a fixed interval, some seconds, which suits work that takes minutes
on AWS. Here the same work takes a second. A retry comes after a quarter of the time that the execution has been
retrying, at most after its own interval: a short wait ends early, and a long one loses few of its retries.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

from ministack.services import stepfunctions

from twin.cloud.registry import Settings

FIRST_S = 0.5
"""The shortest pause: a question costs two function calls."""

SHARE = 0.25
"""Of the time since the first pause."""


class QuickWaits:
    """Pauses of executions, each of which has a thread of its own.

    Args:
        sleep: The pause as the state machine says, s.
        clock: Seconds, ever rising.
    """

    def __init__(self, sleep: Callable[[float], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._sleep, self._clock = sleep, clock
        self._began: weakref.WeakKeyDictionary[threading.Thread, float] = weakref.WeakKeyDictionary()
        self._waiting = threading.local()

    def pause(self, seconds: float) -> None:
        """Pause before a retry, or for a Wait state as long as it says."""
        if not getattr(self._waiting, "exactly", False):
            now = self._clock()
            began = self._began.setdefault(threading.current_thread(), now)
            seconds = min(seconds, max(FIRST_S, SHARE * (now - began)))
        self._sleep(seconds)

    def exactly(self, wait_state: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what runs a Wait state: its time is part of what the state machine does."""

        def run(*arguments: Any, **named: Any) -> Any:
            self._waiting.exactly = True
            try:
                return wait_state(*arguments, **named)
            finally:
                self._waiting.exactly = False

        return run


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Put it in place of MiniStack's pause."""
    waits = QuickWaits(stepfunctions._scaled_sleep)
    stepfunctions._scaled_sleep = waits.pause
    stepfunctions._execute_wait = waits.exactly(stepfunctions._execute_wait)
