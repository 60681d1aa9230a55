"""The moment by which a handler must have stopped, so that its own error is reported and not a time-out."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MARGIN_S = 20.0


class DeadlineError(TimeoutError):
    """The function's time is nearly over; what has been done stays done and the next try goes on from there."""


class Deadline:
    """A point in time, on the monotonic clock.

    Args:
        seconds: From now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @classmethod
    def of(cls, context: Any, share: float = 1.0) -> "Deadline":
        """Return the deadline of an invocation: `MARGIN_S` before its Lambda function is stopped.

        Args:
            context: The Lambda context.
            share: Part of the time to use, above 0 to 1; the rest is for undoing what was done.
        """
        return cls(share * (context.get_remaining_time_in_millis() / 1000 - MARGIN_S))

    def remaining(self) -> float:
        """Seconds that are left, below zero when there are none."""
        return self._end - time.monotonic()

    def check(self, doing: str) -> None:
        """Go on only while there is time.

        Args:
            doing: What is under way and how far it is ("delete devices: 12 of 40 done").

        Raises:
            DeadlineError: The time is over.
        """
        if time.monotonic() >= self._end:
            raise DeadlineError(
                f"the function's time is over while it was about to {doing}; run the same command again"
            )


def each_in_time(deadline: Deadline, names: Sequence[str], act: Callable[[str], None], *, workers: int) -> bool:
    """Do it for each name, several at a time, while there is time; the first error ends it.

    Args:
        deadline: Checked before each name.
        names: What to work on.
        act: Does the work of one; may raise DeadlineError itself.
        workers: How many at a time.

    Returns:
        Whether all were done; if not, the time was over.
    """

    def in_time(name: str) -> bool:
        try:
            deadline.check(f"go on with {name}")
            act(name)
        except DeadlineError:
            return False
        return True

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(in_time, name) for name in names]
        try:
            done = [future.result() for future in futures]  # all of them: each may hold an error
        except Exception:
            pool.shutdown(cancel_futures=True)
            raise
    return all(done)
