"""What the simulated devices of a process keep together: their documents in one file, and downloads once for all."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin.core_device.deployment.artifacts import digest_of, unpack_zip
from twin.core_device.errors import DeploymentError


class Database:
    """The documents of all devices of a process, in one file; what was written is on disk after `commit`.

    Args:
        path: The file; made if missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS documents (path TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID"
        )

    def read(self, path: Path) -> Any:
        """The document, or None."""
        found = self._connection.execute("SELECT value FROM documents WHERE path = ?", (str(path),)).fetchone()
        return json.loads(found[0]) if found else None

    def write(self, path: Path, value: Any) -> None:
        """Replace a document."""
        text = json.dumps(value, separators=(",", ":"))
        self._change("INSERT OR REPLACE INTO documents VALUES (?, ?)", str(path), text)

    def below(self, folder: Path) -> list[Path]:
        """The documents in a folder."""
        span = (f"{folder}/", f"{folder}0")  # "0" comes right after "/"
        rows = self._connection.execute("SELECT path FROM documents WHERE path > ? AND path < ?", span)
        return [path for (text,) in rows if (path := Path(text)).parent == folder]

    def remove(self, path: Path) -> None:
        """Forget a document."""
        self._change("DELETE FROM documents WHERE path = ?", str(path))

    def remove_all(self, folder: Path) -> None:
        """Forget a device."""
        self._change("DELETE FROM documents WHERE path > ? AND path < ?", f"{folder}/", f"{folder}0")

    def commit(self) -> None:
        """Let what was written be on disk.

        Raises:
            OSError: It cannot be, as on a full disk.
        """
        if self._connection.in_transaction:
            self._execute("COMMIT")

    def close(self) -> None:
        """Commit, and let go of the file."""
        try:
            self.commit()
        finally:
            self._connection.close()

    def _change(self, statement: str, *values: str) -> None:
        if not self._connection.in_transaction:
            self._execute("BEGIN")
        self._execute(statement, *values)

    def _execute(self, statement: str, *values: str) -> None:
        try:
            self._connection.execute(statement, values)
        except sqlite3.OperationalError as exc:
            # What a device does about its own disk, it does about this one.
            raise OSError(f"{self._path} cannot be written: {exc}") from exc


@dataclass
class Download:
    """An object that one device has fetched for all: its file, ETag, size and digest; why it cannot be unpacked."""

    path: Path
    tag: str
    size: int
    digest: str
    damage: DeploymentError | None = None


class Downloads:
    """Objects by URI. Each device asks S3 for its own: with an ETag, so that the bytes come once.

    Args:
        folder: For the files.
    """

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a former process: nobody knows what it is
        folder.mkdir(parents=True)
        self.folder = folder
        self.by_uri: dict[str, Download] = {}
        self.locks: dict[str, asyncio.Lock] = {}
        self.fetched_bytes = 0
        self.counted_bytes = 0

    async def keep(self, uri: str, path: Path, tag: str, *, unzip: bool) -> Download:
        """Take what a device has fetched."""
        digest = await asyncio.to_thread(digest_of, path)
        kept = self.folder / digest.replace("/", "_")
        path.replace(kept)
        damage = None
        if unzip:
            unpacked = kept.with_name(kept.name + ".content")
            try:
                await asyncio.to_thread(unpack_zip, kept, unpacked)
            except DeploymentError as exc:
                damage = exc
            shutil.rmtree(unpacked, ignore_errors=True)  # nothing runs from it
        found = self.by_uri[uri] = Download(kept, tag, kept.stat().st_size, digest, damage)
        self.fetched_bytes += found.size
        return found
