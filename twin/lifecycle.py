"""Start and stop a twin: one cloud process, and what it runs, in one state folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from twin import TwinError
from twin.clock import Clock
from twin.cloud_process import OWNER_VARIABLE, cloud_environment, last_log_lines, spawn_cloud
from twin.files import finish_together, private_folder, private_opener, try_room
from twin.ports import free_ports, is_free
from twin.process import (
    ProcessIdentity,
    end_edge_processes,
    end_processes,
    heads,
    listened_on,
    processes_where,
    with_descendants,
)
from twin.state import (
    PORT_NAMES,
    STATE_FILE,
    TwinState,
    load_state,
    remove_state,
    save_all,
    save_state,
    unsaved_mark,
    unsaved_text,
)

REGION = "us-east-1"
ACCOUNT = "000000000000"
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
_PORT_CHOICES = 5
"""How often a start chooses ports anew: another program may take one between the choice and the cloud's binding it."""

ROOM_BYTES = 16 << 20
"""That a start needs besides what its state has now."""

Progress = Callable[[str], None]

_LOCK = "lifecycle.lock"
MADE = re.compile(
    r"(home|tmp|s3|state|log|instances|devices|simulated|unsaved|state\.json(\.\d+\.new)?|(lifecycle|devices)\.lock)"
)
"""What twins make in their state folder."""

__all__ = ["load_state", "one_at_a_time", "purge", "start", "stop"]


class _EndedError(TwinError):
    """The cloud has ended by itself."""


class _TakenError(_EndedError):
    """It has, or was ended, because another program has a port that was to be its own."""


def _silent(_text: str) -> None:
    return


@contextlib.contextmanager
def one_at_a_time(home: Path, name: str = _LOCK) -> Iterator[None]:
    """One `up` or `down` at a time in a state folder; the lock goes with the process that holds it.

    Args:
        home: The state folder; made if missing.
        name: Of the lock; another one for what does not keep from starting and stopping.

    Raises:
        TwinError: Another process has had it for 80 s, or the folder cannot be written.
    """
    try:
        private_folder(home)
        lock = open(home / name, "w", opener=private_opener)  # noqa: SIM115
    except OSError as exc:
        raise TwinError(f"state folder must be writable, got {home}: {exc}: set TWIN_HOME to another one") from exc
    with lock:
        deadline = time.monotonic() + START_LIMIT_S + STOP_LIMIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if time.monotonic() > deadline:
                    raise TwinError(
                        f"another `python -m twin up` or `down` must end first, got one at work in {home} for more "
                        f"than {START_LIMIT_S + STOP_LIMIT_S:.0f} s: end it, then repeat"
                    ) from exc
                time.sleep(0.1)
        yield


def start(
    home: Path,
    *,
    auth: bool | None = None,
    extensions: Sequence[str] = (),
    speed: float | None = None,
    aws_rates: bool = False,
    progress: Progress = _silent,
) -> TwinState:
    """Start the twin of a state folder, from its persisted state if there is one; a running one is left as it is.

    Args:
        home: The state folder; made if missing.
        auth: Whether IAM policies are evaluated; by default if `TWIN_AUTH` is 1.
        extensions: Modules with `install(settings)` that the cloud installs besides its own, such as a fault's.
        speed: Seconds of the twin in a real one, 1 to 3600; 1 by default, and whatever it is where the twin runs.
        aws_rates: Throttle as an AWS account with default quotas does, from this start to the next.
        progress: Told what happens, in short sentences.

    Returns:
        The state, once its cloud listens on every port. One that others take meanwhile is chosen anew.

    Raises:
        TwinError: If it cannot be started within 60 s; the text ends with the last lines of the log.
    """
    home = home.resolve()
    with one_at_a_time(home):
        known = load_state(home)
        if known is not None and known.running:
            running = Clock.read(known.clock).speed
            if speed not in (None, running):
                raise TwinError(f"--speed must be {running:g} while the twin runs, got {speed:g}: stop it first")
            if aws_rates:
                raise TwinError("--aws-rates must come with the twin's start, got a twin that runs: stop it first")
            # One that is just ending is no running one.
            with contextlib.suppress(_EndedError):
                _wait_until_ready(known, progress)
                return known
        _end_cloud_processes(home)
        finish_together(home / "state")
        _check_persisted_state(home)
        _check_room(home)
        evaluate = os.environ.get("TWIN_AUTH") == "1" if auth is None else auth
        clock = _clock(home, known, 1.0 if speed is None else speed)
        choices = _PORT_CHOICES
        while True:
            choices -= 1
            known = _spawned(
                home, known, progress, auth=evaluate, extensions=extensions, clock=clock, aws_rates=aws_rates
            )
            try:
                _wait_until_ready(known, progress)
                return known
            except _TakenError:
                if not choices:
                    raise


def _spawned(home: Path, known: TwinState | None, progress: Progress, *, clock: str, **settings: Any) -> TwinState:
    """Start the cloud's process, on the ports and with the secret that are known, and note it in the state folder."""
    ports = _ports(known, progress)
    secret = known.secret if known is not None else secrets.token_urlsafe(30)
    progress("starting the cloud")
    environment = cloud_environment(home, ports, region=REGION, account=ACCOUNT, secret=secret, clock=clock, **settings)
    pid = spawn_cloud(home, environment)
    try:
        started = ProcessIdentity.of(pid).started
    except psutil.NoSuchProcess as exc:
        raise TwinError(f"the cloud ended at once:\n{last_log_lines(home)}") from exc
    state = TwinState(
        home=home, pid=pid, started=started, region=REGION, account=ACCOUNT, secret=secret, clock=clock, **ports
    )
    # Before the wait, so that a start that is interrupted can still be found and ended.
    try:
        save_state(state)
    except OSError as exc:
        _end_cloud_processes(home)
        raise TwinError(f"{home / STATE_FILE} must be writable, got {exc}: make room, then repeat") from exc
    return state


def _clock(home: Path, known: TwinState | None, speed: float) -> str:
    """The clock from here on, as text: twin time never goes back, and devices that live on have the same one."""
    before = Clock.read(known.clock) if known is not None else Clock()
    if speed == before.speed:
        return before.text
    try:
        clock = before.at_speed(speed)
    except ValueError as exc:
        raise TwinError(f"--{exc}") from exc
    end_edge_processes(home)
    return clock.text


def _check_persisted_state(home: Path) -> None:
    """Refuse a damaged file: the cloud would go on without it, with stacks whose resources are gone."""
    for path in sorted((home / "state").glob("*.json")):
        try:
            json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as exc:
            raise TwinError(
                f"persisted state must be readable JSON, got {path} ({exc}): put the file back, or begin anew with "
                "`python -m twin down --purge`"
            ) from exc


def _check_room(home: Path) -> None:
    """Refuse a full disk: each state is written beside the one before it, and logs and devices need some, too."""
    room = ROOM_BYTES + sum(path.stat().st_size for path in (home / "state").glob("*.json"))
    try:
        try_room(home, room)
    except OSError as exc:
        raise TwinError(
            f"the disk of {home} must have {room / 1e6:.0f} MB left for the twin's state, got {exc}: make room, then "
            "repeat; what was saved before is still there"
        ) from exc


def _ports(known: TwinState | None, progress: Progress) -> dict[str, int]:
    if known is not None:
        taken = _taken(known)
        if not taken:
            return known.ports
        progress(f"taken meanwhile by other programs: {taken}; choosing new ports")
    return dict(zip(PORT_NAMES, free_ports(len(PORT_NAMES)), strict=True))


def _taken(state: TwinState) -> str:
    """Which ports of a cloud that does not run are others' now."""
    return ", ".join(f"{name} {port}" for name, port in state.ports.items() if not is_free(port))


def _wait_until_ready(state: TwinState, progress: Progress) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    progress("waiting until it is ready")
    while time.monotonic() < deadline:
        if not state.running:
            _reap(state.pid)
            text = f"the end of {state.home / 'log/cloud.log'}:\n{last_log_lines(state.home)}"
            if taken := _taken(state):
                raise _TakenError(f"the cloud's ports must stay free while it starts, others took {taken}; {text}")
            raise _EndedError(f"the cloud ended while it started; {text}")
        # Who has taken a port may be another twin, which answers as this one would.
        if state.gateway_port in listened_on(state.pid) and _is_ready(state):
            if listened_on(state.pid) >= set(state.ports.values()):
                return
            # MiniStack goes on where it does not get its MQTT port.
            _end_cloud_processes(state.home)
        time.sleep(0.05)
    _end_cloud_processes(state.home)
    raise TwinError(
        f"the cloud must be ready within {START_LIMIT_S:.0f} s, it was not and has been ended; the end of "
        f"{state.home / 'log/cloud.log'}:\n{last_log_lines(state.home)}"
    )


def _is_ready(state: TwinState) -> bool:
    try:
        with urllib.request.urlopen(f"{state.gateway_url}/_ministack/ready", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def stop(home: Path, *, anyway: bool = False, progress: Progress = _silent) -> bool:
    """Stop the twin of a state folder: the cloud, its Lambda functions, its devices and their components.

    Finds them also when the cloud or a device was killed or `state.json` is lost. The persisted state stays, so that
    `start` goes on where this left off.

    Args:
        home: The state folder.
        anyway: Stop it also where its state cannot be saved, as on a full disk; what was not saved is lost.
        progress: Told what happens, in short sentences.

    Returns:
        Whether anything ran.

    Raises:
        TwinError: If a process cannot be ended, or the state not saved: then the twin runs on, and nothing is lost.
    """
    home = home.resolve()
    if not home.is_dir():
        return False
    with one_at_a_time(home):
        running = _saved(home, anyway, progress)
        progress("stopping the cloud")
        ended = _end_cloud_processes(home)
        progress("stopping the devices")
        ended += end_edge_processes(home)
        try:
            # The ports stay known, so that devices and scripts find the twin again after the next start.
            load_state(home)
        except TwinError:
            remove_state(home)
        if running and not anyway and unsaved_mark(home).exists():
            raise TwinError(
                f"the last state of the cloud must be written before it ends, it was not: what changed in its last "
                f"seconds is not in {home / 'state'}; the end of {home / 'log/cloud.log'}:\n{last_log_lines(home)}"
            )
        return ended > 0


def purge(home: Path, *, keep: str = "", progress: Progress = _silent) -> bool:
    """Stop the twin of a state folder, saved or not, and delete the folder; a folder that is no twin's stays untouched.

    Args:
        home: The state folder.
        keep: Name of what stays in it, such as `log`.
        progress: Told what happens, in short sentences.

    Returns:
        Whether anything ran.

    Raises:
        TwinError: The folder has what no twin makes, or a process cannot be ended.
    """
    home = home.resolve()
    found = {path.name for path in home.iterdir()} - {keep} if home.is_dir() else set()
    foreign = sorted(name for name in found if _LOCK not in found or not MADE.fullmatch(name))
    if foreign:
        text = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
        raise TwinError(
            f"a folder to be deleted must be a twin's state folder, got {home}, in which no twin made {text}: nothing "
            "was deleted; name another folder, or move them away"
        )
    ran = stop(home, anyway=True, progress=progress)
    # The lock goes last: of a purge that was killed half way it says that the rest is a twin's.
    for path in sorted(home.glob("*"), key=lambda path: path.name == _LOCK):
        if path.name != keep:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if home.is_dir() and not keep:
        home.rmdir()
    return ran


def _saved(home: Path, anyway: bool, progress: Progress) -> bool:
    """Let the cloud save its state while it still runs and can keep it.

    Returns:
        Whether the cloud runs.
    """
    try:
        state = load_state(home)
    except TwinError:
        return False
    if state is None or not state.running:
        return False
    if not anyway:
        progress("saving the state")
        if left := save_all(state):
            raise TwinError(
                f"the twin's state must be saved before it stops, got {unsaved_text(left)}: it runs on, and has all "
                f"of it in memory. Make room on the disk of {home}, then repeat; `python -m twin down --anyway` stops "
                "it and loses what is not saved"
            )
    return True


def _end_cloud_processes(home: Path) -> int:
    """End the cloud and what it runs; the cloud first, so that it can save its state.

    Returns:
        How many there were.

    Raises:
        TwinError: If one cannot be ended.
    """
    family = with_descendants(processes_where(lambda environment: environment.get(OWNER_VARIABLE) == str(home)))
    cloud = heads(family)
    left = end_processes(cloud, term_s=STOP_LIMIT_S)
    left += end_processes([process for process in family if process not in cloud], term_s=2.0)
    for process in cloud:
        _reap(process.pid)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise TwinError(f"processes of the cloud must end within {STOP_LIMIT_S:.0f} s of SIGTERM, got {pids}: end them")
    return len(family)


def _reap(pid: int) -> None:
    """Collect the exit status if the process is a child of this one (a test, the demo)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
