"""The states of a component, and how long the device waits for one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """A component's state as fleet status reports it."""

    NEW = "NEW"
    INSTALLED = "INSTALLED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    ERRORED = "ERRORED"
    BROKEN = "BROKEN"
    FINISHED = "FINISHED"
    STOPPING = "STOPPING"


@dataclass(frozen=True)
class Patience:
    """How long the device waits for components, in seconds.

    Args:
        stable_s: A process that runs this long is taken to be well.
        reset_s: A process that ran this long begins a new row of failures.
        restart_s: Shortest wait before a restart; the longest begins at twice that and doubles with each failure.
        grace_s: From SIGTERM to SIGKILL.
    """

    stable_s: float = 3.0
    reset_s: float = 10.0
    restart_s: float = 1.0
    grace_s: float = 10.0
