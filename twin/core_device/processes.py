"""Which processes are the device's, itself and its components, known even to its successor (Linux, proc(5))."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from twin.process import ProcessIdentity

from .errors import CoreDeviceError
from .files import JSON_FILES

FAULTS = {
    "ipc": signal.SIGUSR1,
    "mqtt": signal.SIGUSR2,
    "config": signal.SIGHUP,
    "pubsub": signal.SIGURG,
    "token": signal.SIGWINCH,
    "broker": signal.SIGALRM,
}


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


log = logging.getLogger(__name__)


class ProcessRegistry:
    """A file of process groups.

    Args:
        path: The file; missing means none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._groups: dict[int, int] = {}

    def end_leftovers(self) -> int:
        """End the groups that a killed predecessor has left; returns how many there were."""
        ended = 0
        for leader, ticks in (JSON_FILES.read(self._path) or {}).items():
            if end_process_group(int(leader), int(ticks)):
                log.warning("ended process group %s, left over from a killed device", leader)
                ended += 1
        self._save()
        return ended

    def add(self, pid: int) -> None:
        """Note a group by its first process; one that is gone already is not noted."""
        ticks = start_ticks(pid)
        if ticks is not None:
            self._groups[pid] = ticks
            self._save()

    def remove(self, pid: int) -> None:
        """Forget a group that has ended."""
        if self._groups.pop(pid, None) is not None:
            self._save()

    def _save(self) -> None:
        """On a full disk nothing is noted: a process that runs must not be lost because of that."""
        try:
            JSON_FILES.write(self._path, self._groups)
        except OSError as exc:
            log.error(
                "%s cannot be written: %s: a device that is killed now leaves its components running", self._path, exc
            )


class InstanceLock:
    """The device's pid file, locked as long as the device lives: `{"pid": 1234, "started": <seconds since the boot>}`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: TextIO | None = None

    def acquire(self) -> None:
        """Take the lock and write who holds it.

        Raises:
            CoreDeviceError: Another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = self._path.open("a+")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip()
                stream.close()
                raise CoreDeviceError(
                    f"another core device runs on {self._path.parent} ({holder or 'starting'}): stop it first, "
                    "or give this one another rootPath"
                ) from None
            if self._is_current(stream):
                break
            stream.close()  # the holder has just left and taken its file with it
        holder = json.dumps(asdict(ProcessIdentity.of(os.getpid())))
        stream.truncate(0)  # whoever reads between this and the next line finds nothing: it is starting
        stream.write(holder)
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        """Remove the file and give the lock up."""
        if self._stream:
            self._path.unlink(missing_ok=True)
            self._stream.close()
            self._stream = None

    def _is_current(self, stream: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(stream.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
