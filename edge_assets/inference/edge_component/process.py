"""The process of a component: the environment that it runs in, its processors, its memory, its end."""

import contextlib
import ctypes
import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

log = logging.getLogger(__name__)

M_ARENA_MAX = -8  # of glibc's malloc.h
ARENAS = 2
_MADV_DONTNEED = 4  # of Linux's mman.h
_MAPPINGS = Path("/proc/self/smaps")
_CODE = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) (?P<rights>r-xp|r--p) \S+ \S+ \S+ +(?P<file>/.*)")
_SIZES = re.compile(r"^(Rss|Anonymous|Swap): +([0-9]+) kB$", re.MULTILINE)


class EnvironmentPointer:
    """Follows the pointer file of the runtime component.

    Args:
        pointer: The file; None when nothing is to be followed.
        prefix: Root of the environment of this process.
    """

    def __init__(self, pointer: Path | None, prefix: Path = Path(sys.prefix)) -> None:
        self._pointer = pointer
        self._prefix = prefix

    def is_outdated(self) -> bool:
        """Tell whether the pointer names another environment, and a usable one.

        Returns:
            False when the pointer cannot be read: it may just be on its way.
        """
        target = self._target()
        if target is None or not os.access(target / "bin" / "python", os.X_OK):
            return False
        try:
            return not target.samefile(self._prefix)
        except OSError:
            # The environment of this process is gone; the new one is there.
            return True

    def restart(self) -> NoReturn:
        """Start the same command in the environment that the pointer names; the process keeps its id and its token.

        Raises:
            OSError: The new interpreter does not start.
        """
        target = self._target() or self._prefix
        python = str(target / "bin" / "python")
        log.info("starting anew in %s", target)
        os.execv(python, [python, *sys.orig_argv[1:]])  # noqa: S606 - no shell is wanted

    def _target(self) -> Path | None:
        if self._pointer is None:
            return None
        try:
            content = self._pointer.read_text(errors="replace").strip()
        except OSError:
            return None
        # No path has zero bytes, but a file may after a power cut.
        return Path(content) if content and "\0" not in content else None


class EndBudget:
    """How often a component may end because its device has forgotten it.

    systemd starts a component of nucleus lite three times within an hour, then never again until somebody resets it.

    Args:
        file: Keeps when it has ended.
        clock: Seconds since 1970.
    """

    WITHIN_S = 3600.0
    ENDS = 2

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        self._file = file
        self._clock = clock

    def spend(self) -> bool:
        """Take one end.

        Returns:
            False when there have been two within the last hour, or when it cannot be noted.
        """
        now = self._clock()
        try:
            times = [float(text) for text in self._file.read_text().split()] if self._file.exists() else []
        except (OSError, ValueError):
            times = []
        # A clock that was put back must not hold the end up for longer than an hour.
        recent = [at for at in times if now - self.WITHIN_S < at <= now]
        if len(recent) >= self.ENDS:
            return False
        try:
            # In one step: a full disk must not make it forget the ends that it knows.
            new = self._file.with_suffix(".new")
            new.write_text("\n".join(map(str, [*recent, now])))
            new.replace(self._file)
        except OSError as exc:
            log.error("%s cannot be written, so the process goes on: %s", self._file, exc)
            return False
        return True


def cores(system: Path = Path("/")) -> int:
    """Count the processor cores that this process may keep busy: those of its mask, within its control groups' quota.

    A quota of one and a half cores counts as one: a second thread would be stopped for half of each period, and with it
    whoever waits for its answer.

    Args:
        system: Root of the file system that tells the quota.

    Returns:
        At least 1.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([mask, *(int(share) for share in _quotas(system))]))


def _quotas(system: Path) -> Iterator[float]:
    """The quota, in cores, of each control group that the process is in.

    Source: cgroups(7), /proc/self/cgroup; the kernel's documentation of cgroup v2, cpu.max, and of v1, cfs_quota_us.
    """
    groups = system / "sys/fs/cgroup"
    for line in _text(system / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for group in (path, *map(str, PurePosixPath(path).parents)):
            inner = group.lstrip("/")
            if controllers:
                folder = groups / controllers / inner
                limit = _text(folder / "cpu.cfs_quota_us").split() + _text(folder / "cpu.cfs_period_us").split()
            else:
                limit = _text(groups / inner / "cpu.max").split()
            # "max", or -1: no limit.
            if len(limit) == 2 and limit[0].isdecimal() and limit[1].isdecimal() and int(limit[1]):
                yield int(limit[0]) / int(limit[1])


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


@cache
def freeze() -> None:
    """Take all that exists now out of the garbage collector's sight, once, before the first model is loaded.

    A full collection over the hundred thousand objects of the imported modules would hold a request up for 10 ms and
    more.
    Later calls do nothing: a model must stay visible, to be collected when it is replaced.
    """
    gc.freeze()


def trim() -> None:
    """Give free memory of the heap back to the system; without glibc nothing happens."""
    release = _library_call("malloc_trim")
    if release is not None:
        release(0)


def release_code() -> None:
    """Let go of what only the start and the loading of models need of the libraries: 15 MB of some 100.

    Its pages stay in the system's cache for as long as nobody wants the memory, and one that is used again is back
    within microseconds. Without Linux's /proc nothing happens.
    """
    load, close, advise = map(_library_call, ("dlopen", "dlclose", "madvise"))
    if load is None or close is None or advise is None:
        return
    load.restype = ctypes.c_void_p
    # One that is held is mapped and relocated as a whole, and stays so: of one that another thread loads or closes,
    # the next lines would tear away what the loader writes.
    own = os.path.realpath("/proc/self/exe")
    named = {name for _, _, name in _unchanged_code(_text(_MAPPINGS))} - {own}
    held = {name: load(os.fsencode(name), os.RTLD_LAZY | os.RTLD_NOLOAD) for name in named}
    held[own] = load(None, os.RTLD_LAZY)
    for start, size, name in _unchanged_code(_text(_MAPPINGS)):
        if held.get(name):
            advise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)
    for handle in filter(None, held.values()):
        close(ctypes.c_void_p(handle))


def _unchanged_code(mappings: str) -> list[tuple[int, int, str]]:
    """Libraries' code and constants in memory that are as their file has them, by the text of /proc/PID/smaps.

    What a page has beyond its file would be lost: what a loader wrote into it, a debugger's breakpoint. Such pages are
    anonymous, or swapped out and then counted there alone.

    Returns:
        First address, bytes and file of each mapping.
    """
    found, libraries = [], set()
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", mappings, flags=re.MULTILINE):
        head, sizes = _CODE.match(mapping), dict(_SIZES.findall(mapping))
        if head is None:
            continue
        start, end = int(head["start"], 16), int(head["end"], 16)
        if head["rights"] == "r-xp":
            libraries.add(head["file"])
        if sizes.get("Rss", "0") != "0" and sizes.get("Anonymous") == sizes.get("Swap") == "0":
            found.append((start, end - start, head["file"]))
    return [piece for piece in found if piece[2] in libraries]


def free_bytes() -> int:
    """Memory that can be had without swapping.

    Returns:
        Bytes; a very large number where the kernel does not say.
    """
    for line in _text(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


@cache
def _library_call(name: str) -> Any:
    """A function of the C library; None where it has no such."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None


def _share_arenas() -> None:
    """Let threads share the heap's arenas: one a thread, as glibc has it, costs 10 MB with two models, for no speed."""
    set_option = _library_call("mallopt")
    if set_option is not None:
        set_option(M_ARENA_MAX, ARENAS)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a program and end the process with its exit code, whatever its threads are doing.

    Python's own ending takes the interpreter away from threads that run on. One that is loading a model comes back from
    C++ to find it gone, and aborts the process: a component that ended in good order would be reported as crashed. So
    nothing is finalised here; what must be kept is on disk before `main` returns.

    Args:
        main: Returns the exit code. An exception is logged, and is exit code 1; SystemExit goes its usual way, as
            that of a wrong command line, which comes before the first thread.
    """
    _share_arenas()
    try:
        code = main()
    except Exception:
        log.exception("ended by an error")
        code = 1
    # A device that reads no more is no reason to stay.
    with contextlib.suppress(OSError, ValueError):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
