"""Processes by identity: a pid alone may meanwhile belong to somebody else's process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psutil

INTERPRETER_VARIABLES = ("LD_LIBRARY_PATH",)
"""Some interpreters start only with these: whoever starts Python with an environment of its own passes them on."""

_CLOCK_TOLERANCE_S = 1.0
"""Start times are computed from the boot time, which moves a little when the clock is adjusted."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process: its pid and when it started (epoch seconds)."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a running process.

        Raises:
            psutil.NoSuchProcess: If there is none with this pid.
        """
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The live process, or None if it has ended or another process has its pid."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) <= _CLOCK_TOLERANCE_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def processes_where(matches: Callable[[dict[str, str]], bool]) -> list[psutil.Process]:
    """The processes of this user whose environment matches; those that cannot be read are left out.

    Args:
        matches: Told the environment of each process (not of the calling one).

    Returns:
        Live processes, zombies left out.
    """
    found = []
    own_pid = psutil.Process().pid
    for process in psutil.process_iter():
        try:
            if process.pid != own_pid and process.status() != psutil.STATUS_ZOMBIE and matches(process.environ()):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def with_descendants(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and everything they started that still runs, each once."""
    family: dict[int, psutil.Process] = {}
    for process in processes:
        family[process.pid] = process
        try:
            family.update((child.pid, child) for child in process.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return list(family.values())


def heads(family: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that no other of them has started; one that has ended meanwhile is none of them."""
    members = list(family)
    pids = {member.pid for member in members}
    found = []
    for member in members:
        try:
            if member.ppid() not in pids:
                found.append(member)
        except psutil.NoSuchProcess:
            continue
    return found


def end_processes(processes: Iterable[psutil.Process], *, term_s: float, kill_s: float = 5.0) -> list[psutil.Process]:
    """End processes: SIGTERM, a bounded wait, SIGKILL for those that are left.

    Args:
        processes: Which; ones that have ended are fine.
        term_s: Seconds they have to end by themselves.
        kill_s: Seconds to wait after SIGKILL.

    Returns:
        The processes that are still there (in an uninterruptible state); normally none.
    """
    remaining = list(processes)
    for process in remaining:
        _quietly(process.terminate)
    _, remaining = psutil.wait_procs(remaining, timeout=term_s)
    for process in remaining:
        _quietly(process.kill)
    _, remaining = psutil.wait_procs(remaining, timeout=kill_s)
    return remaining


def _quietly(signal_process: Callable[[], None]) -> None:
    try:
        signal_process()
    except psutil.NoSuchProcess:
        return
