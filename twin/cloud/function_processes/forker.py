"""The cloud's side of the process that function processes are copies of."""

from __future__ import annotations

import array
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from twin.cloud.function_processes.forked_process import ForkedProcess

logger = logging.getLogger("twin.function_processes")

ANSWER_S = 10.0
"""Loading takes a second, a copy milliseconds."""

_REPOSITORY = Path(__file__).resolve().parents[3]


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
                [sys.executable, "-m", "twin.cloud.function_processes.template", str(theirs.fileno())],
                cwd=_REPOSITORY,
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
