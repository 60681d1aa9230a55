"""The twin's time: one clock for the cloud and its devices, which `up --speed N` lets run N times as fast.

Twin time is for what a fleet waits for: rollout rates, time-outs of jobs, periods of alarms, reconnects, heartbeats,
restarts, a device's hours offline. What bounds the work of this machine stays in real seconds: answers of a server, TLS
handshakes, MQTT keep-alives, signatures of requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

CLOCK_VARIABLE = "TWIN_CLOCK"
"""In the environment of the cloud and of the twin's own devices: the clock, as `Clock.text` gives it."""

FASTEST = 3600.0


@dataclass(frozen=True)
class Clock:
    """Twin time: `time()` is where the real time is at first, and goes ahead of it from then on.

    Args:
        speed: Seconds of the twin in a real one, 1 to 3600.
        began_s: Real time at which the speed began, in seconds since the epoch.
        at_s: Twin time at that moment.
        skew_s: So much a device's own clock is ahead; its waits are as long as others'.
    """

    speed: float = 1.0
    began_s: float = 0.0
    at_s: float = 0.0
    skew_s: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.speed <= FASTEST:
            raise ValueError(f"speed must be from 1 to {FASTEST:g}, got {self.speed:g}")

    def time(self) -> float:
        """Seconds since the epoch, as `time.time` has them."""
        return self.at(time.time())

    def at(self, real: float) -> float:
        """The twin's time at a real one, both in seconds since the epoch."""
        return self.at_s + (real - self.began_s) * self.speed + self.skew_s

    def when(self, moment: float) -> float:
        """The real time at a moment of the twin's, both in seconds since the epoch."""
        return self.began_s + (moment - self.at_s - self.skew_s) / self.speed

    def monotonic(self) -> float:
        """Seconds since some moment, as `time.monotonic` has them: no jump of the machine's clock changes that."""
        return time.monotonic() * self.speed

    def real(self, seconds: float) -> float:
        """How many real seconds so many of the twin take."""
        return seconds / self.speed

    async def sleep(self, seconds: float) -> None:
        """Wait for seconds of the twin."""
        await asyncio.sleep(self.real(seconds))

    def timeout(self, seconds: float) -> asyncio.Timeout:
        """As `asyncio.timeout`, in seconds of the twin."""
        return asyncio.timeout(self.real(seconds))

    def call_later(self, seconds: float, function: Callable[[], object]) -> asyncio.TimerHandle:
        """Call a function after seconds of the twin."""
        return asyncio.get_running_loop().call_later(self.real(seconds), function)

    def skewed(self, seconds: float) -> Clock:
        """The same clock, so much ahead."""
        return Clock(self.speed, self.began_s, self.at_s, self.skew_s + seconds)

    def at_speed(self, speed: float) -> Clock:
        """A clock that goes on from here at another speed, and never back: where this one is, or the real time.

        Raises:
            ValueError: The speed is not allowed.
        """
        now = time.time()
        return Clock(speed, now, max(now, self.time()))

    @property
    def text(self) -> str:
        """For the environment of another process."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Clock:
        """The clock of a text that `text` gave; of an empty one, real time.

        Raises:
            ValueError: It is none.
        """
        try:
            stored: dict[str, Any] = json.loads(text or "{}")
            return cls(**{name: float(value) for name, value in stored.items()})
        except (TypeError, AttributeError, ValueError) as exc:
            raise ValueError(f"a clock must be what `Clock.text` gives, got {text!r}: {exc}") from exc


CLOCK = Clock.read(os.environ.get(CLOCK_VARIABLE, ""))
"""The clock of this process."""
