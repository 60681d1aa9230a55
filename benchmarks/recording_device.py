"""A device in a process of its own that notes when messages arrive: the twin's IPC server on a real socket."""

import multiprocessing
import os
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.edge.local_device import LocalDevice, configuration

LIMIT_S = 60.0


class _Device(LocalDevice):
    """Tells the moment of the last message that is waited for."""

    def __init__(self, socket: Path, pipe: Connection) -> None:
        super().__init__(socket, configuration())
        self._pipe = pipe
        self._left = 0

    def expect(self, count: int) -> None:
        self._left = count

    async def publish_to_iot_core(  # the server's handler: only the moment counts here
        self,
        topic: str,  # noqa: ARG002
        payload: bytes,  # noqa: ARG002
        qos: int,  # noqa: ARG002
        properties: Mapping[str, Any],  # noqa: ARG002
    ) -> None:
        moment = time.perf_counter()
        self._left -= 1
        if not self._left:
            self._pipe.send(moment)


def _serve(socket: Path, pipe: Connection, cores: set[int]) -> None:
    os.sched_setaffinity(0, cores)
    device = _Device(socket, pipe)
    with device:
        pipe.send(device.environment())
        while (count := pipe.recv()) is not None:
            device.expect(count)
            pipe.send(True)


class RecordingDevice:
    """A running device; use it as a context manager. Moments are those of `time.perf_counter`, one clock for all.

    Args:
        socket: Where it listens.
        cores: Where it runs.
    """

    def __init__(self, socket: Path, cores: set[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(socket, other, cores), daemon=True)

    def __enter__(self) -> "RecordingDevice":
        self._process.start()
        os.environ.update(self._answer())
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(10)
        self._process.kill()

    def expect(self, count: int) -> None:
        """Begin to wait for so many messages."""
        self._pipe.send(count)
        self._answer()

    def arrived(self) -> float:
        """Wait for the last of them; gives the moment of its arrival at the device."""
        moment: float = self._answer()
        return moment

    def _answer(self) -> Any:
        if not self._pipe.poll(LIMIT_S):
            raise TimeoutError(f"nothing from the device within {LIMIT_S:.0f} s")
        return self._pipe.recv()
