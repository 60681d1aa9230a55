"""One core device at a time on one root folder."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import TextIO

from .errors import CoreDeviceError
from .process_identity import started_at


class InstanceLock:
    """The device's pid file, locked as long as the device lives: `{"pid": 1234, "started": <epoch seconds>}`.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream: TextIO | None = None

    def acquire(self) -> None:
        """Take the lock and write who holds it.

        Raises:
            CoreDeviceError: Another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = self._path.open("a+")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.seek(0)
                holder = stream.read().strip()
                stream.close()
                raise CoreDeviceError(
                    f"another core device runs on {self._path.parent} ({holder or 'starting'}): stop it first, "
                    "or give this one another rootPath"
                ) from None
            if self._is_current(stream):
                break
            stream.close()  # the holder has just left and taken its file with it
        holder = json.dumps({"pid": os.getpid(), "started": started_at(os.getpid())})
        stream.truncate(0)  # whoever reads between this and the next line finds nothing: it is starting
        stream.write(holder)
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        """Remove the file and give the lock up."""
        if self._stream:
            self._path.unlink(missing_ok=True)
            self._stream.close()
            self._stream = None

    def _is_current(self, stream: TextIO) -> bool:
        try:
            return os.path.samestat(os.fstat(stream.fileno()), self._path.stat())
        except FileNotFoundError:
            return False
