"""What every Python component on a device is made of, whatever it does: its connection, its outbox, its settings.

Here are the pauses between attempts, of whatever kind.
"""

import random


class BackOff:
    """Pauses that double up to a limit, each shortened at random so that a fleet does not knock in step.

    Args:
        first_s: The first pause, in seconds, above 0.
        longest_s: No pause is longer.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """Choose the next pause.

        Returns:
            Seconds, between half of the current step and all of it.
        """
        step_s, self._next_s = self._next_s, min(self._next_s * 2, self._longest_s)
        return step_s * random.uniform(0.5, 1)  # noqa: S311 - spreads load, protects nothing

    def reset(self) -> None:
        """Start again with the first pause: the last attempt worked."""
        self._next_s = self._first_s
