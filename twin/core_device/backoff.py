"""Waiting times between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass
class Backoff:
    """Full-jitter exponential back-off: each wait is random between a floor and a ceiling that doubles.

    Args:
        first_s: Ceiling of the first wait, in seconds.
        limit_s: Ceiling that is never passed.
        floor_s: The shortest wait.
    """

    first_s: float
    limit_s: float
    floor_s: float = 0.0
    _attempts: int = field(default=0, init=False)

    def next_s(self) -> float:
        """Seconds to wait before the next attempt."""
        ceiling = min(self.limit_s, self.first_s * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 32)
        return random.uniform(min(self.floor_s, ceiling), ceiling)  # noqa: S311 - spreads attempts, protects nothing

    def reset(self) -> None:
        """Begin again after a success."""
        self._attempts = 0
