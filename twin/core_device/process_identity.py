"""Processes told apart from later ones with the same number (Linux, proc(5))."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

_KILL_LIMIT_S = 5.0


def start_ticks(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine's start; None when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name, which may hold anything; 22 is starttime, 3 the state.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def started_at(pid: int) -> float:
    """When a process began, in seconds since the epoch (equal to psutil's `create_time`)."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1]) + (start_ticks(pid) or 0) / os.sysconf("SC_CLK_TCK")
    return time.time()


def end_process_group(leader: int, ticks: int) -> bool:
    """Kill a process group that a predecessor has left behind.

    Args:
        leader: The group's number, which is its first process' one.
        ticks: When that process began; a later process with its number is left alone.

    Returns:
        True when there was something to end.
    """
    alive = start_ticks(leader)
    # Without its leader a group keeps its number, and the kernel gives that to no other process (credentials(7)).
    if alive is not None and alive != ticks:
        return False
    deadline = time.monotonic() + _KILL_LIMIT_S
    found = False
    while time.monotonic() < deadline:
        try:
            os.killpg(leader, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            break
        found = True
        time.sleep(0.02)
        if not _has_live_member(leader):
            break
    return found


def _has_live_member(group: int) -> bool:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False
