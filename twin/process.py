"""Processes by identity: a pid alone may meanwhile belong to somebody else's process.

Those on the edge side of a twin are core devices, and the components that outlive a killed one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from twin.core_device.files import socket_folders

INTERPRETER_VARIABLES = ("LD_LIBRARY_PATH",)
"""Some interpreters start only with these: whoever starts Python with an environment of its own passes them on."""

ALLOCATOR = {
    # glibc keeps freed memory for each thread: uploads of tens of MB would stay in the process for good.
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(256 << 10),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 20),
}
"""In the environment of what lives for days."""

TRIM_S = 30.0
"""How often it is to give back memory."""


def trim_memory() -> None:
    """Give back to the system what is free between what is used; without glibc nothing happens."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


OPEN_FILES = 65_536
"""More than ten thousand devices with their connections need."""


def open_files_limit() -> int:
    """How many files and connections a process of this machine may have at most."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)


def allow_open_files() -> None:
    """Let this process and what it starts have so many: of 1,024, as shells have, a thousand devices use up all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < open_files_limit():
        with contextlib.suppress(OSError, ValueError):  # macOS has a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_files_limit(), hard))


_LOOK_S = 0.05
_TOLERANCE_S = 1.0
"""Where start times are the clock's, they move a little when it is adjusted."""


def _began(pid: int) -> float:
    """When a process began, in seconds since the machine's start; by the clock where the system does not tell that.

    The boot time that psutil adds moves with the clock: after a jump a running process would be another one.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return psutil.Process(pid).create_time()
    # The second field is the program's name, which may hold anything; 22 is starttime, 3 the state.
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessIdentity:
    """A process: its pid and when it started, in seconds since the boot, which no jump of the clock changes."""

    pid: int
    started: float

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """The identity of a running process.

        Raises:
            psutil.NoSuchProcess: If there is none with this pid.
        """
        return cls(pid, _began(pid))

    def process(self) -> psutil.Process | None:
        """The live process, or None if it has ended or another process has its pid."""
        try:
            process = psutil.Process(self.pid)
            same = abs(_began(self.pid) - self.started) <= _TOLERANCE_S
            return process if same and not _has_ended(process) else None
        except psutil.NoSuchProcess:
            return None


def listened_on(pid: int) -> set[int]:
    """The ports of 127.0.0.1 that a process of this user listens on; none if there is no such process."""
    try:
        connections = psutil.Process(pid).net_connections("tcp4")
    except psutil.Error:
        return set()
    return {
        each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN and each.laddr.ip == "127.0.0.1"
    }


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
    remaining = _running_after(remaining, term_s)
    for process in remaining:
        _quietly(process.kill)
    return _running_after(remaining, kill_s)


def _running_after(processes: list[psutil.Process], limit_s: float) -> list[psutil.Process]:
    """Wait for the end of processes; those that still run.

    One that has ended counts although nobody has collected its status yet: a container's first process may never do.
    """
    deadline, remaining = time.monotonic() + limit_s, processes
    while remaining:
        left_s = max(deadline - time.monotonic(), 0.0)
        _, alive = psutil.wait_procs(remaining, timeout=min(left_s, _LOOK_S))
        remaining = [process for process in alive if not _has_ended(process)]
        if not left_s:
            break
    return remaining


def _has_ended(process: psutil.Process) -> bool:
    """Whether it is gone with all its threads: while the last of them ends, its ports are taken still."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True


def _quietly(signal_process: Callable[[], None]) -> None:
    try:
        signal_process()
    except psutil.NoSuchProcess:
        return


DEVICE_VARIABLE = "TWIN_DEVICE_ROOT"
"""In the environment of a core device: its root folder."""

CUT_OFF = "cut-off"
"""File in a device's root folder: as long as it is there, the twin's proxy lets the device through no more."""

COMPONENT_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_TERM_S = 20.0


def instances_folder(home: Path) -> Path:
    """Where the root folders of the core devices lie, one for each instance id."""
    return home / "instances"


def devices_folder(home: Path) -> Path:
    """Where the root folders of the devices of `up --devices` lie, one for each thing."""
    return home / "devices"


def device_pid(root: Path) -> int | None:
    """Of the core device on a root folder, as it noted it itself; None if it does not run."""
    try:
        noted = json.loads((root / "core_device.pid").read_text("utf-8"))
        process = ProcessIdentity(int(noted["pid"]), float(noted["started"])).process()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return process.pid if process else None


def ports_of(root: Path) -> set[int]:
    """Local ports of the TCP connections that the core device on a root folder and its components have."""
    pid = device_pid(root)
    found: set[int] = set()
    for process in with_descendants([psutil.Process(pid)] if pid else []):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found |= {connection.laddr.port for connection in process.net_connections("tcp") if connection.laddr}
    return found


def fleet_folder(home: Path) -> Path:
    """Where everything of the simulated fleet lies, all devices in one process."""
    return home / "simulated"


def end_edge_processes(folder: Path) -> int:
    """End the core devices with a root folder below a folder, and their components.

    Devices are told first, so that they can stop their components in order; whatever is left is ended after that.

    Args:
        folder: A twin's state folder, or the root folder of one device.

    Returns:
        How many processes there were.
    """
    sockets = socket_folders(folder)

    def lies_below(path: str | None) -> bool:
        return path is not None and (Path(path).is_relative_to(folder) or Path(path).parent in sockets)

    devices = processes_where(
        lambda environment: COMPONENT_VARIABLE not in environment and lies_below(environment.get(DEVICE_VARIABLE))
    )
    family = with_descendants(devices)
    end_processes(devices, term_s=_TERM_S)
    orphans = with_descendants(processes_where(lambda environment: lies_below(environment.get(COMPONENT_VARIABLE))))
    rest = {process.pid: process for process in [*family, *orphans]}
    end_processes(rest.values(), term_s=3.0)
    for temporary in sockets:
        shutil.rmtree(temporary, ignore_errors=True)
    return len({process.pid for process in [*devices, *rest.values()]})
