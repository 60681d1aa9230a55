"""What the cloud has not taken yet: components' messages on disk, which no kill loses; other payloads in memory."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

_TABLE = "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, topic TEXT, payload BLOB, properties TEXT)"


class SpooledMessage(NamedTuple):
    """One that waits.

    Attributes:
        number: What it is called in the spool.
        topic: Where to.
        payload: What.
        properties: MQTT 5 properties as the IPC names them.
    """

    number: int
    topic: str
    payload: bytes
    properties: dict[str, Any]


class Spool:
    """Messages in the order in which they came, as the classic nucleus' disk spooler keeps them.

    A kill of the process loses nothing that was added; a power cut may. A message may be sent again that the cloud has
    acknowledged in the last moments: QoS 1 is at least once. Use it from one thread.

    Args:
        file: Of SQLite; one that is damaged is put aside as `<name>.damaged` and a new one begun.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last = 0
        self._acknowledged: set[int] = set()
        self._database = self._open()

    def waiting(self) -> list[SpooledMessage]:
        """Those of the process before, the oldest first."""
        if self._database is None:
            return []
        try:
            rows = self._database.execute("SELECT number, topic, payload, properties FROM messages ORDER BY number")
            found = [SpooledMessage(row[0], row[1], row[2], json.loads(row[3])) for row in rows]
        except (sqlite3.Error, ValueError) as exc:
            log.error("the messages in %s cannot be read, and are given up: %s", self._file, exc)
            self._put_aside()
            return []
        return found

    def add(self, topic: str, payload: bytes, properties: Mapping[str, Any]) -> int | None:
        """Keep a message behind all others.

        Args:
            topic: Where to.
            payload: What.
            properties: MQTT 5 properties as the IPC names them; they are JSON.

        Returns:
            Its number; None when the disk is full or broken, which is logged.
        """
        if self._database is None:
            self._database = self._open()
        if self._database is None:
            return None
        number = self._last + 1
        row = (number, topic, payload, json.dumps(dict(properties), separators=(",", ":")))
        try:
            self._database.execute("BEGIN")
            self._delete_acknowledged(self._database)
            self._database.execute("INSERT INTO messages VALUES (?, ?, ?, ?)", row)
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            log.error("a message cannot be kept in %s: %s", self._file, exc)
            self.close()
            return None
        self._acknowledged.clear()
        self._last = number
        return number

    def acknowledge(self, number: int) -> None:
        """Forget a message: at once in memory, on disk with the next one or by `tidy`."""
        self._acknowledged.add(number)

    def tidy(self) -> None:
        """Bring to disk which messages were acknowledged."""
        if self._database is None or not self._acknowledged:
            return
        try:
            self._database.execute("BEGIN")
            self._delete_acknowledged(self._database)
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            log.error("acknowledged messages stay in %s, and are sent again after a restart: %s", self._file, exc)
            self.close()
            return
        self._acknowledged.clear()

    def close(self) -> None:
        """Close the file; what was added next opens it again."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _delete_acknowledged(self, database: sqlite3.Connection) -> None:
        database.executemany("DELETE FROM messages WHERE number = ?", [(number,) for number in self._acknowledged])

    def _put_aside(self) -> None:
        self.close()
        with contextlib.suppress(OSError):
            self._file.replace(self._file.with_name(self._file.name + ".damaged"))
        self._database = self._open()

    def _open(self) -> sqlite3.Connection | None:
        for attempt in range(2):
            try:
                database = _connected(self._file)
                # One that opens late has the messages of the process before.
                (last,) = database.execute("SELECT coalesce(max(number), 0) FROM messages").fetchone()
                self._last = max(self._last, last)
                return database
            except (sqlite3.Error, OSError) as exc:
                log.error("the spool %s cannot be used: %s", self._file, exc)
                # A full disk or a missing right (OperationalError) leaves good messages where they are.
                if attempt == 0 and isinstance(exc, sqlite3.Error) and not isinstance(exc, sqlite3.OperationalError):
                    with contextlib.suppress(OSError):
                        self._file.replace(self._file.with_name(self._file.name + ".damaged"))
        return None


def _connected(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o600)  # components may not read each other's messages
    database = sqlite3.connect(file, timeout=1, isolation_level=None)
    try:
        # A sync a message would cost more than sending it; a kill loses nothing without one.
        for setting in ("journal_mode=WAL", "synchronous=OFF", "cache_size=-256"):
            database.execute(f"PRAGMA {setting}")
        database.execute(_TABLE)
    except sqlite3.Error:
        database.close()
        raise
    return database


PIECE_BYTES = 512 << 10
"""Above the size from which the allocator asks the system for each piece by itself (`twin.process.ALLOCATOR`)."""


class Backlog:
    """Payloads of at most 128 KiB, first in, first out.

    As objects between others, those of a crowd would leave holes all over the heap: the device would stay larger by
    megabytes for good.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytearray] = deque()
        self._taken = self._put = 0  # bytes of the first piece, and of the last one

    def put(self, payload: bytes) -> None:
        """Add a payload behind the others."""
        if not payload:
            return
        if not self._pieces or self._put + len(payload) > PIECE_BYTES:
            if self._pieces:
                del self._pieces[-1][self._put :]
            self._pieces.append(bytearray(PIECE_BYTES))
            self._put = 0
        end = self._put + len(payload)
        self._pieces[-1][self._put : end] = payload
        self._put = end

    def take(self, length: int) -> bytes:
        """Take the first payload out.

        Args:
            length: Of what was put.
        """
        if not length:
            return b""
        first = self._pieces[0]
        begun, self._taken = self._taken, self._taken + length
        payload = bytes(memoryview(first)[begun : self._taken])
        if self._taken == (self._put if len(self._pieces) == 1 else len(first)):
            self._pieces.popleft()
            self._taken = 0
        return payload
