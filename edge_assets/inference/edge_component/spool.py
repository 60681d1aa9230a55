"""Messages on disk until they are published: they outlive an outage and the process."""

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

TABLE = "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB)"


class Spool:
    """A first-in first-out store of messages on disk.

    A file that is damaged is put aside and a new one begun. Safe from any thread.

    Args:
        file: The store; None for one that takes nothing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self._published = 0
        self._database = _open(file) if file else None
        self._on_disk = self._counted()

    def __len__(self) -> int:
        # Read by those who must not wait for the disk: without the lock.
        return self._on_disk

    def extend(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Add messages behind all others, all of them or none.

        Args:
            messages: Topic and payload of each.

        Returns:
            False when the disk is full or broken; the reason is logged.
        """
        with self._lock:
            if self._database is None and self._file is not None:
                self._database, self._published = _open(self._file), 0
                self._on_disk = self._counted()
            if self._database is None:
                return False
            try:
                self._write(self._database, messages)
            except sqlite3.Error as exc:
                log.error("%d messages wait in memory, the spool cannot be written: %s", len(messages), exc)
                return False
            self._on_disk += len(messages)
            return True

    def first(self) -> tuple[str, bytes] | None:
        """Get the oldest message, which stays.

        Returns:
            Topic and payload, or None when there is none.
        """
        with self._lock:
            row = self._row()
            return None if row is None else (row[1], row[2])

    def remove_first(self) -> bool:
        """Forget the oldest message: it is published.

        Returns:
            Whether there was one.
        """
        with self._lock:
            row = self._row()
            if row is None:
                return False
            # Remembered, too: a delete that fails on a full disk must not publish the message for ever.
            self._published = row[0]
            self._on_disk -= 1
            with contextlib.suppress(sqlite3.Error):
                if self._database is not None:
                    self._database.execute("DELETE FROM messages WHERE number <= ?", (self._published,))
            return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database, self._file, self._on_disk = None, None, 0

    def _write(self, database: sqlite3.Connection, messages: Sequence[tuple[str, bytes]]) -> None:
        try:
            database.execute("BEGIN IMMEDIATE")
            # What a full disk did not let go of.
            database.execute("DELETE FROM messages WHERE number <= ?", (self._published,))
            database.executemany("INSERT INTO messages (topic, payload) VALUES (?, ?)", messages)
            database.execute("COMMIT")
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _row(self) -> tuple[int, str, bytes] | None:
        if self._database is None or not self._on_disk:
            return None
        query = "SELECT number, topic, payload FROM messages WHERE number > ? ORDER BY number LIMIT 1"
        try:
            row: tuple[int, str, bytes] | None = self._database.execute(query, (self._published,)).fetchone()
        except sqlite3.Error as exc:
            log.error("%d messages cannot be published, the spool cannot be read: %s", self._on_disk, exc)
            # Opened anew with the next messages, or put aside if it is damaged.
            self._database.close()
            self._database = row = None
        if row is None:
            self._on_disk = 0
        return row

    def _counted(self) -> int:
        if self._database is None:
            return 0
        return int(self._database.execute("SELECT count(*) FROM messages").fetchone()[0])


def _open(file: Path) -> sqlite3.Connection | None:
    """Open the store; a damaged one is put aside, and without a usable disk there is none."""
    for attempt in range(2):
        try:
            return _connected(file)
        except (sqlite3.Error, OSError) as exc:
            log.error("the spool %s cannot be used: %s", file, exc)
            # A full disk or a missing right (OperationalError) leaves good messages where they are.
            if attempt == 0 and isinstance(exc, sqlite3.Error) and not isinstance(exc, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    file.replace(file.with_suffix(".damaged"))
    return None


def _connected(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(file, timeout=1, isolation_level=None, check_same_thread=False)
    try:
        # Write-ahead log without a sync a message: a killed process loses nothing, a power cut the last moments.
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA cache_size=-512")
        database.execute(TABLE)
        database.execute("SELECT count(*) FROM messages").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database
