"""The pinned CDK command line as a child process: streamed, logged, bounded, ended with its whole process group."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from config.places import NODE_MODULES, PROJECT
from tools.node import node_binary

ROOT = PROJECT
_COMMAND = NODE_MODULES / "aws-cdk" / "bin" / "cdk"
_TAIL_LINES = 25
_GRACE_S = 5


class CdkError(RuntimeError):
    """The CDK command line failed; the message ends with its last lines and where the rest is."""


def run_cdk(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    timeout_s: float,
    on_line: Callable[[str], None] = lambda _line: None,
    cloud_has_ended: Callable[[], bool] = lambda: False,
    cwd: Path = ROOT,
) -> float:
    """Run one CDK command to its end.

    Args:
        arguments: what follows `cdk`, such as ["deploy", "--all"].
        environment: the whole environment of the child, endpoint and credentials included.
        log: file that receives all output; an older one is overwritten.
        timeout_s: after so many seconds the command is ended and CdkError raised.
        on_line: called with each line of output, without its end.
        cloud_has_ended: asked every second; once it says so, the command is ended: by itself it would try for minutes.
        cwd: the app's folder, where cdk.json is.

    Returns:
        How long it took, in seconds.

    Raises:
        CdkError: the command failed, took too long, or lost its cloud.
    """
    if not _COMMAND.exists():
        raise CdkError(f"the CDK command line is missing at {_COMMAND}: run make setup")
    started = time.monotonic()
    command = [str(node_binary()), str(_COMMAND), "--no-color", "--no-notices", "--ci", *arguments]
    # A session of its own: an interrupt reaches it when its asset uploads and synth can be ended with it, not before.
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    done, ended_because = threading.Event(), ""

    def watch() -> None:
        nonlocal ended_because
        while not done.wait(1):
            if time.monotonic() - started > timeout_s:
                ended_because = f"took longer than {timeout_s:.0f} s"
            else:
                ended_because = _lost(cloud_has_ended)
            if ended_because:
                end_group(process)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        with log.open("w") as file:
            for line in process.stdout or ():
                file.write(line)
                tail.append(line.rstrip())
                on_line(line.rstrip())
        code = process.wait()
    finally:
        done.set()
        watcher.join()
        end_group(process)
    if ended_because:
        raise CdkError(f"cdk {arguments[0]} {ended_because} and was ended; all output: {log}")
    if code:
        last = "\n".join(tail)
        raise CdkError(f"cdk {arguments[0]} ended with exit code {code}; all output: {log}; its last lines:\n{last}")
    return time.monotonic() - started


def _lost(cloud_has_ended: Callable[[], bool]) -> str:
    try:
        return "lost the cloud it talked to" if cloud_has_ended() else ""
    except Exception as exc:  # noqa: BLE001 - whatever it is, the command's limit must go on being watched
        return f"cannot be told whether its cloud runs ({exc})"


def end_group(process: subprocess.Popen[str], ask: signal.Signals = signal.SIGTERM) -> None:
    """End the process group of a command with a session of its own: ask, wait a little, insist."""
    for number in (ask, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        break
