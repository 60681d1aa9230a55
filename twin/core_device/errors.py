"""The errors of the core device, and the waiting times between attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


class CoreDeviceError(Exception):
    """The core device cannot do what it was asked; the text says what, where and what helps."""


class ConfigurationError(CoreDeviceError):
    """The device's `config.yaml` has mistakes; the text lists all of them."""


class RequestRejectedError(CoreDeviceError):
    """The cloud refused a request.

    Args:
        message: What was refused and why.
        code: The cloud's name for the reason, such as `TerminalStateReached`; empty when it gave none.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class DeploymentError(CoreDeviceError):
    """A deployment cannot be carried out.

    Args:
        message: What failed, with component, step and value.
        kind: The error type reported to the cloud, in the manner of the nucleus (`ARTIFACT_CHECKSUM_MISMATCH`).
    """

    def __init__(self, message: str, kind: str = "DEPLOYMENT_FAILURE") -> None:
        super().__init__(message)
        self.kind = kind


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
