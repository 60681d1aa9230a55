"""A step of a component as a process group of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from .component_log import ComponentLog
from .process_registry import ProcessRegistry

_DRAIN_S = 0.5
_KILL_WAIT_S = 5.0


class ComponentProcess:
    """A running script.

    Args:
        process: The shell, leader of its own session.
        log: Where its output goes.
        registry: Where its group is noted while it lives.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: ComponentLog, registry: ProcessRegistry) -> None:
        self._process, self._log, self._registry = process, log, registry
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, script: str, environment: Mapping[str, str], folder: Path, log: ComponentLog, registry: ProcessRegistry
    ) -> ComponentProcess:
        """Run a script by /bin/sh in a folder, with exactly the given environment."""
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-c",
            script,
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        registry.add(process.pid)
        return cls(process, log, registry)

    @property
    def pid(self) -> int:
        """The number of the process and of its group."""
        return self._process.pid

    async def wait(self) -> int:
        """Wait for the script's end; whatever it left running is ended too.

        Returns:
            Its exit status; negative is the number of the signal that ended it.
        """
        status = await self._process.wait()
        await self._clean_up()
        return status

    async def stop(self, grace_s: float) -> None:
        """Ask the whole group to end (SIGTERM), and after a grace period make it (SIGKILL)."""
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            self._log.note(f"not ended {grace_s:g} s after SIGTERM: killed")
            self._signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_KILL_WAIT_S):
                    await self._process.wait()
        await self._clean_up()

    async def _clean_up(self) -> None:
        self._signal(signal.SIGKILL)  # members that outlived the script
        # A process that has left the group may hold the pipe open for ever.
        await asyncio.wait([self._reader], timeout=_DRAIN_S)
        self._reader.cancel()
        self._registry.remove(self._process.pid)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        while chunk := await self._process.stdout.read(1 << 16):
            self._log.write(chunk)
