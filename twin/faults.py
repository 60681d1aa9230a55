"""Faults of a real core device that a twin's device shows on command."""

from __future__ import annotations

import os

from twin.core_device.signals import FAULTS
from twin.errors import TwinError
from twin.state import TwinState
from twin.status import take_status


def lose(state: TwinState, device: str, daemon: str) -> None:
    """Let a device lose a daemon of nucleus lite for a moment.

    Args:
        state: Of a running twin.
        device: Thing name of an edge server or of a device of `up --devices`.
        daemon: `ipc` or `mqtt`.

    Raises:
        TwinError: There is no such daemon, or no such device that runs.
    """
    if daemon not in FAULTS:
        raise TwinError(f"DAEMON must be one of {', '.join(FAULTS)}, got {daemon!r}")
    status = take_status(state)
    pids = {each.thing_name: each.pid for each in status.edge_servers}
    pids |= {each.thing_name: each.pid for each in status.devices}
    running = {thing: pid for thing, pid in pids.items() if pid is not None}
    if device not in running:
        known = ", ".join(sorted(running)) or "none"
        raise TwinError(f"DEVICE must be a device of this twin that runs, got {device!r}: there are {known}")
    os.kill(running[device], FAULTS[daemon])
