"""A process that another one made, with as much of `subprocess.Popen` as MiniStack's workers use."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess


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
