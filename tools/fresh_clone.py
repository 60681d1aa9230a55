"""Runs commands in fresh clones of HEAD, under circumstances other than this folder's: place, user, umask, home.

python -m tools.fresh_clone --folder-name "ä b" --umask 077 --clones 2 --command "make demo" --command "make test"
"""

import argparse
import asyncio
import contextlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from config.endings import uninterrupted
from twin.process import end_processes

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "out" / "fresh-clone"
HOMES = ("own", "empty", "read-only", "unset")
TAIL_LINES = 15
#: All that a clone takes over: how this machine reaches package indexes, and where programs are.
KEPT = re.compile(
    r"PATH|LD_LIBRARY_PATH|TERM|(https?|all|no)_proxy|\w*CERT\w*|\w*_CA_\w*|\w*_CAINFO"
    r"|(PIP|UV)_\w*(INDEX|FIND_LINKS|TIMEOUT|HOST|NATIVE_TLS)\w*|PIP_CONFIG_FILE|UV_CONFIG_FILE"
    r"|NPM_CONFIG_(REGISTRY|CAFILE|USERCONFIG|PROXY|HTTPS_PROXY)",
    re.IGNORECASE,
)


class CircumstanceError(ValueError):
    """The circumstances cannot be had here."""


@dataclass(frozen=True)
class Circumstances:
    """What a clone meets.

    Attributes:
        folder_name: Where it lies below a temporary folder.
        user: Who runs it, None for the caller.
        umask: For all that is written, None for the caller's.
        home: One of `HOMES`.
        autocrlf: Whether the user's git turns line endings into those of Windows.
        python: The interpreter that set-up starts from, None for the one on PATH.
        clones: How many there are at once.
    """

    folder_name: str = "edgewright"
    user: str | None = None
    umask: int | None = None
    home: str = "own"
    autocrlf: bool = False
    python: str | None = None
    clones: int = 1

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.folder_name).parts
        if not parts or self.folder_name.startswith("/") or ".." in parts:
            raise CircumstanceError(f"--folder-name must be a relative path without .., got {self.folder_name!r}")
        if self.clones < 1:
            raise CircumstanceError(f"--clones must be at least 1, got {self.clones}")
        if self.user and os.geteuid():
            raise CircumstanceError(f"--user {self.user} must be started by root: only root can become another user")
        if self.home == "read-only" and not self.account.pw_uid:
            raise CircumstanceError("--home read-only must have a --user: root writes everywhere")

    @property
    def account(self) -> pwd.struct_passwd:
        """Whose processes they are."""
        try:
            return pwd.getpwnam(self.user) if self.user else pwd.getpwuid(os.geteuid())
        except KeyError:
            raise CircumstanceError(f"--user must be a user of this machine, got {self.user!r}") from None

    def __str__(self) -> str:
        words = [f"folder {self.folder_name!r}", f"user {self.account.pw_name}", f"home {self.home}"]
        words += [f"umask {self.umask:03o}"] if self.umask is not None else []
        words += ["autocrlf"] if self.autocrlf else []
        words += [f"python {self.python}"] if self.python else []
        return ", ".join(words)

    def environment(self, given: Mapping[str, str], work: Path) -> dict[str, str]:
        """A whole environment, with nothing of the caller's settings but the way to package indexes.

        Args:
            given: The caller's.
            work: Folder with `home` and `tmp`.
        """
        kept = {name: value for name, value in given.items() if KEPT.fullmatch(name)}
        # Make puts this folder's own environment in front.
        places = [place for place in kept.get("PATH", os.defpath).split(os.pathsep) if not _is_ours(place)]
        home = {"own": self.account.pw_dir, "unset": None}.get(self.home, str(work / "home"))
        return {
            **kept,
            "PATH": os.pathsep.join(places),
            **({"HOME": home} if home else {}),
            **({"PYTHON": self.python} if self.python else {}),
            "TMPDIR": str(work / "tmp"),
        }

    def process(self, given: Mapping[str, str], work: Path) -> dict[str, Any]:
        """Options of a process of the clone."""
        options: dict[str, Any] = {"env": self.environment(given, work), "start_new_session": True}
        if self.user:
            groups = os.getgrouplist(self.account.pw_name, self.account.pw_gid)
            options |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": groups}
        return options if self.umask is None else {**options, "umask": self.umask}


def _is_ours(place: str) -> bool:
    return Path(place).is_relative_to(ROOT)


@dataclass(frozen=True)
class Outcome:
    """How one command ended in one clone; code -1 if it was ended at the limit."""

    clone: int
    command: str
    code: int
    seconds: float


def table(circumstances: Circumstances, outcomes: Sequence[Outcome]) -> str:
    """One line a command."""
    rows = [("circumstances", "clone", "command", "exit", "seconds")]
    rows += [(str(circumstances), str(o.clone), o.command, str(o.code), f"{o.seconds:.1f}") for o in outcomes]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def left_running(work: Path) -> list[psutil.Process]:
    """Live processes that have to do with a folder: by their folder, their arguments or their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            told = [process.cwd(), *process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(work) in text for text in told):
                found.append(process)
    return found


def keep_logs(out: Path, place: Path) -> str:
    """Copy the logs that the clone's commands wrote: once it is gone, nothing else explains a failure.

    Returns:
        Where they are; nothing if there are none.
    """
    # Nothing else: beside them lie keys.
    for log in sorted(out.rglob("*.log")):
        copy = place / log.relative_to(out)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, copy)
    return str(place) if place.is_dir() else ""


async def run_in_clone(
    number: int, circumstances: Circumstances, work: Path, commands: Sequence[str], limit_s: float, log: Path
) -> list[Outcome]:
    """Clone and run the commands in turn, up to the first that fails; all output goes into the log."""
    folder = work / str(number) / circumstances.folder_name
    crlf = ["-c", "core.autocrlf=true"] if circumstances.autocrlf else []
    options = circumstances.process(os.environ, work)
    first = [
        "git",
        "-c",
        "advice.detachedHead=false",
        "clone",
        "--quiet",
        *crlf,
        str(work / "head.bundle"),
        str(folder),
    ]
    outcomes = []
    print(f"clone {number}: {folder}, all output in {log}", file=sys.stderr, flush=True)
    with log.open("wb") as output:
        for command in (None, *commands):
            name = command or "git clone"
            output.write(f"\n=== {name}\n".encode())
            output.flush()
            started = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *(["/bin/sh", "-c", command] if command else first),
                cwd=folder if command else work,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **options,
            )
            try:
                code = await asyncio.wait_for(process.wait(), limit_s)
            except TimeoutError:
                code = -1
            finally:
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    await process.wait()
            outcomes.append(Outcome(number, name, code, time.monotonic() - started))
            if code:
                tail = log.read_text("utf-8", errors="replace").splitlines()[-TAIL_LINES:]
                kept = keep_logs(folder / "out", log.with_suffix(""))
                told = f"clone {number}: {name} ended with {code}; all output: {log}{kept and f', its logs: {kept}'}"
                print(told, *tail, sep="\n", file=sys.stderr)
                break
    return outcomes


async def run_all(
    circumstances: Circumstances, work: Path, commands: Sequence[str], limit_s: float, logs: Path
) -> list[Outcome]:
    """Run in every clone at once; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    if task:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    numbers = range(1, circumstances.clones + 1)
    runs = [run_in_clone(n, circumstances, work, commands, limit_s, logs / f"{work.name}-{n}.log") for n in numbers]
    return [outcome for outcomes in await asyncio.gather(*runs) for outcome in outcomes]


def run(
    circumstances: Circumstances,
    commands: Sequence[str],
    *,
    limit_s: float,
    logs: Path = LOGS,
    repository: Path = ROOT,
) -> int:
    """Make the clones, run the commands, print the table, remove everything.

    Returns:
        0, or 1 if a command failed or left a process running.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Short, because the path of a socket has at most 107 bytes, and pytest puts half of them between.
    work = Path(tempfile.mkdtemp(prefix="ew-")).resolve()
    left: list[psutil.Process] = []
    try:
        # A bundle, because git refuses to read a repository of another user.
        bundle = ["git", "bundle", "create", "--quiet", str(work / "head.bundle"), "HEAD"]
        subprocess.run(bundle, cwd=repository, check=True)
        (work / "head.bundle").chmod(0o644)
        account = circumstances.account
        for folder in ("home", "tmp", *map(str, range(1, circumstances.clones + 1))):
            (work / folder).mkdir()
            os.chown(work / folder, account.pw_uid, account.pw_gid)
        (work / "home").chmod(0o555 if circumstances.home == "read-only" else 0o700)
        work.chmod(0o755)
        outcomes = asyncio.run(run_all(circumstances, work, commands, limit_s, logs))
        print(table(circumstances, outcomes))
        left = left_running(work)
        for process in left:
            with contextlib.suppress(psutil.Error):
                print(f"left running: {process.pid} {' '.join(process.cmdline())[:200]}", file=sys.stderr)
        return int(bool(left) or any(outcome.code for outcome in outcomes))
    finally:
        with uninterrupted():
            end_processes(left or left_running(work), term_s=5)
            for folder, _, _ in os.walk(work):
                Path(folder).chmod(0o700)  # some may not be written to, even by their owner
            shutil.rmtree(work)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fresh_clone", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder-name", default="edgewright", help="where the clone lies, such as 'ä b' or a/b/c")
    parser.add_argument("--user", help="who runs it (needs root)")
    parser.add_argument("--umask", type=lambda text: int(text, 8), help="such as 077")
    parser.add_argument("--home", choices=HOMES, default="own", help="HOME of the commands (default: %(default)s)")
    parser.add_argument("--autocrlf", action="store_true", help="clone with core.autocrlf=true")
    parser.add_argument("--python", help="PYTHON of the commands: what set-up starts from")
    parser.add_argument("--clones", type=int, default=1, help="how many at once (default: %(default)s)")
    parser.add_argument("--command", action="append", dest="commands", help="given once or more (default: make demo)")
    parser.add_argument("--limit-s", type=float, default=3600, help="for each command (default: %(default)s)")
    options = vars(parser.parse_args(arguments))
    commands, limit_s = options.pop("commands") or ["make demo"], options.pop("limit_s")
    try:
        return run(Circumstances(**options), commands, limit_s=limit_s)
    except (CircumstanceError, OSError, subprocess.CalledProcessError) as exc:
        print(f"fresh_clone: {exc}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("fresh_clone: interrupted, everything is removed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
