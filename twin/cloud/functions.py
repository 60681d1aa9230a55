"""Functions: their processes start as copies of one that has the AWS SDK loaded and are kept; their logs.

A cold start takes half a second of computing, nearly all of it for botocore and the services' models, and a deploy has
dozens. AWS has other machines for that; on a laptop it is much of a deploy.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

from ministack.core import lambda_runtime
from ministack.services import cloudwatch_logs

from config.places import IMPORTS
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_background
from twin.cloud_process import Settings

logger = logging.getLogger("twin.function_processes")

ANSWER_S = 10.0
"""Loading takes a second, a copy milliseconds."""


class Forker:
    """Starts scripts as copies of one process; where that one is not there, says so, and nothing is lost but time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None
        self._template: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start the process; it loads while the cloud goes on."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._template = subprocess.Popen(
                [sys.executable, "-m", "twin.cloud.function_template", str(theirs.fileno())],
                cwd=IMPORTS,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(ANSWER_S)
        self._channel = ours

    async def stop(self) -> None:
        """End the process; its copies end by themselves, when their input does."""
        self._give_up()
        if self._template:
            self._template.terminate()
            self._template.wait(2)

    def fork(self, script: str, *, cwd: str, env: Mapping[str, str]) -> ForkedProcess | None:
        """Run a script.

        Args:
            script: Its path.
            cwd: The process' folder.
            env: Its whole environment.

        Returns:
            The process, its standard streams as text pipes, or None if there is nothing to copy.
        """
        order = json.dumps({"script": script, "cwd": cwd, "env": dict(env)}).encode()
        pipes = [os.pipe() for _ in range(3)]
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
        try:
            pid, descriptor = self._ask(order, [stdin, stdout, stderr])
        except (OSError, ValueError) as exc:
            if self._channel:
                logger.warning("functions start by themselves from now on: %s", exc)
            self._give_up()
            for pair in ((to_stdin,), (from_stdout,), (from_stderr,)):
                os.close(pair[0])
            return None
        finally:
            for end in (stdin, stdout, stderr):
                os.close(end)
        return ForkedProcess(pid, descriptor, to_stdin, from_stdout, from_stderr)

    def _ask(self, order: bytes, streams: list[int]) -> tuple[int, int]:
        with self._lock:
            if self._channel is None:
                raise OSError("there is no process to copy")
            socket.send_fds(self._channel, [order], streams)
            answer, descriptors, _flags, _address = socket.recv_fds(self._channel, 64, 1)
        if not answer or not descriptors:
            raise OSError("the process to copy has ended")
        return int(answer), array.array("i", descriptors)[0]

    def _give_up(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel:
            channel.close()


class ForkedProcess:
    """A grandchild, known by its process descriptor: its number may be another one's when it has ended.

    Args:
        pid: Its number.
        descriptor: Its process descriptor (`pidfd_open`), closed here at its end.
        stdin: Writing end of its standard input.
        stdout: Reading end of its standard output.
        stderr: Reading end of its standard error.
    """

    def __init__(self, pid: int, descriptor: int, stdin: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = open(stdin, "w", buffering=1)  # noqa: SIM115
        self.stdout = open(stdout)  # noqa: SIM115
        self.stderr = open(stderr)  # noqa: SIM115
        self._descriptor = descriptor

    def poll(self) -> int | None:
        """0 once it has ended, whatever its code, which only its parent hears; None before."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Args:
            timeout: The longest wait, s; without one as long as it takes.

        Raises:
            subprocess.TimeoutExpired: It goes on.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            if poller.poll(None if timeout is None else int(timeout * 1000)):
                self.returncode = 0
                os.close(self._descriptor)
                with contextlib.suppress(OSError):
                    self.stdin.close()
        return self.returncode


def _is_pooled(worker: Any) -> bool:
    """Whether the function is still there: its deletion ends the workers that it finds in the pool."""
    with lambda_runtime._lock:
        return any(worker in workers for workers in lambda_runtime._workers.values())


class _Ended:
    """As much of a worker as its end takes; its folder stays for the process that comes after."""

    def __init__(self, process: Any) -> None:
        self._proc = process

    def _discard_tmpdir(self) -> None:
        """Leave it to the worker."""


_forker = Forker()


@patch("core.lambda_runtime.subprocess", why="Python workers are copies of a loaded process", signature="module")
def _subprocess_with_copies(by_ministack: ModuleType) -> SimpleNamespace:

    def popen(command: list[str], **options: Any) -> Any:
        # A worker's command is the interpreter and its script.
        if len(command) == 2 and command[0] == sys.executable and "cwd" in options and "env" in options:
            copied = _forker.fork(command[1], cwd=options["cwd"], env=options["env"])
            if copied is not None:
                return copied
        return subprocess.Popen(command, **options)

    return SimpleNamespace(**{**vars(by_ministack), "Popen": popen})


# The process of a function that raises an error is kept, as AWS keeps its execution environment. MiniStack ends it
# after each error. A handler that is not done says so by raising one: each question of a waiter would take a new
# process.
_held = threading.local()


@patch("core.lambda_runtime._signal", why="a function that raises keeps its process", signature="(proc)")
def _end_process(end: Callable[[Any], None], process: Any) -> None:
    """Hold the end of a process back while its worker is in an invocation."""
    if getattr(_held, "invoking", False):
        _held.process = process
    else:
        end(process)


@patch("core.lambda_runtime._collect", why="a function that raises keeps its process", signature="(proc, deadline)")
def _collect_process(wait: Callable[..., None], process: Any, deadline: float) -> None:
    """Wait for a process whose end is not held back."""
    if not getattr(_held, "invoking", False):
        wait(process, deadline)


@patch(
    "core.lambda_runtime.Worker.invoke",
    why="a function that raises keeps its process",
    signature="(self, event, request_id, *, trace_id=None, depth=None, durable=None, invoked_function_arn=None)",
)
def _invoke_worker(run: Callable[..., Any], worker: Any, *arguments: Any, **named: Any) -> dict[str, Any]:
    """Run one invocation; the worker's lock is MiniStack's matter.

    Only an error that the function's own code raised leaves the process as it was: it came with the trace of it, as the
    answer to this invocation. After a time-out or a broken answer the process is ended.
    """
    _held.invoking, _held.process = True, None
    try:
        answer: dict[str, Any] = run(worker, *arguments, **named)
    finally:
        _held.invoking = False
        process, _held.process = _held.process, None
    if process is not None:
        if answer.get("trace") is not None and process.poll() is None and _is_pooled(worker):
            worker._proc = process
        else:
            lambda_runtime.kill_workers([_Ended(process)])
    return answer


_QUIET_S = 0.01
"""A thread may hold the interpreter for half of it before the one that reads a log takes in what it has read."""


@patch(
    "core.lambda_runtime.Worker._drain_stderr_bounded",
    why="the log of a function that has written nothing is waited for 50 ms, at each event of a custom resource",
    signature="(self, first_line_wait=0.05, idle_confirm=0.005, hard_cap=0.25)",
)
def _collect_log(collect: Callable[..., str], worker: Any, **named: float) -> str:
    """What a function wrote before its answer, which has come: it is taken in, or read at this moment, or unread."""
    quiet = {} if _may_have_written(worker._proc) else {"first_line_wait": _QUIET_S}
    return collect(worker, **{**quiet, **named})


def _may_have_written(process: Any) -> bool:
    """Whether something is left in the pipe of its log; of one that was ended nobody can tell."""
    if process is None:
        return True
    size = array.array("i", [0])
    fcntl.ioctl(process.stderr, termios.FIONREAD, size)
    return size[0] > 0


@patch(
    "services.lambda_svc._emit_lambda_logs",
    why="a log group that was deleted with its stack stays deleted: a function's last line comes after the answer that "
    "lets CloudFormation go on; on AWS it is lost, because the function's role may not make groups",
    signature="(func, request_id, log_text, error, duration_ms, *, log_source=None)",
)
def _emit_to_existing_group(emit: Callable[..., None], func: dict[str, Any], *arguments: Any, **named: Any) -> None:
    group = ((func.get("config") or func).get("LoggingConfig") or {}).get("LogGroup")
    if group is None or group in cloudwatch_logs._log_groups:
        emit(func, *arguments, **named)


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Load the process to copy with the cloud."""
    register_background("function processes", start=_forker.start, stop=_forker.stop)
