"""What the simulated devices of a process keep together: documents in one file, downloads once for all, ledgers.

A ledger has what a device went through since measuring began, by the time of its model, which holds what a profile
prescribes: steps, downloads at a bandwidth, starts. What this machine takes for its own work, and the random pauses
between restarts, are not in it: the same seed gives the same figures at each speed, on a busy machine as on an idle
one.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from twin.core_device.components.component import Patience
from twin.core_device.deployment.artifacts import digest_of, unpack_zip
from twin.core_device.errors import DeploymentError

DOCUMENT = "ledger"
"""Name of the document that a device's entry is kept in."""

_GAPS_LIMIT = 100
_STABLE_S = Patience().stable_s


@dataclass(frozen=True)
class Entry:
    """A device's figures.

    Args:
        measuring: Which measurement they belong to.
        received_bytes: What it has downloaded.
        restarts: Starts of components that ran before, or that failed.
        took_s: How long its deployments took, in seconds of the model.
        down_s: How long one of its components was down and came up again.
        broken_at_s: When a component went down that is down still, in seconds of the model; None: all run.
    """

    measuring: int = 0
    received_bytes: int = 0
    restarts: int = 0
    took_s: float = 0.0
    down_s: float = 0.0
    broken_at_s: float | None = None


class Ledger:
    """Takes down what happens on one device."""

    def __init__(self) -> None:
        self.changed = False
        self._measuring = 0
        self._now_s = self._began_s = self._settled_s = 0.0
        self._received_bytes = self._restarts = 0
        self._ran: set[str] = set()
        self._down: dict[str, float] = {}
        self._gaps: list[tuple[float, float]] = []

    def begin(self, measuring: int) -> None:
        """Begin a measurement: what runs goes on to run, figures are zero."""
        self._measuring = measuring
        self._began_s = self._settled_s = self._now_s
        self._received_bytes = self._restarts = 0
        self._gaps.clear()
        self.changed = True

    def receive(self, size: int) -> None:
        """Note a download."""
        self._received_bytes += size
        self.changed = True

    @property
    def now_s(self) -> float:
        """The model's time."""
        return self._now_s

    def reach(self, moment_s: float, *, deploying: bool) -> None:
        """Let the model's time be at least this; a deployment under way has taken so long."""
        self._now_s = max(self._now_s, moment_s)
        if deploying:
            self._settled_s = max(self._settled_s, self._now_s)
        self.changed = True

    def start(self, component: str, start_s: float, *, deploying: bool) -> None:
        """Note that a component runs, and answers after a while."""
        if component in self._ran:
            self._restarts += 1
        self._ran.add(component)
        since = self._down.pop(component, None)
        if since is not None:
            self._close(max(since, self._began_s), self._now_s + start_s)
        if deploying:
            self._settled_s = max(self._settled_s, self._now_s + max(start_s, _STABLE_S))
        self.changed = True

    def stop(self, component: str) -> None:
        """Note that a component runs no more."""
        self._down.setdefault(component, self._now_s)
        self.changed = True

    def entry(self, present: Collection[str]) -> Entry:
        """The figures.

        Args:
            present: Components on the device; those that are not there any more are not down.
        """
        down = [since for component, since in self._down.items() if component in present]
        broken = max(min(down), self._began_s) - self._began_s if down else None
        return Entry(
            self._measuring,
            self._received_bytes,
            self._restarts,
            round(self._settled_s - self._began_s, 3),
            round(sum(end - start for start, end in self._gaps), 3),
            None if broken is None else round(broken, 3),
        )

    def _close(self, start: float, end: float) -> None:
        """Join a time without an answer with those it touches: two components that are down together count once."""
        apart = [gap for gap in self._gaps if gap[1] < start or gap[0] > end]
        touched = [gap for gap in self._gaps if gap not in apart]
        joined = (min([start, *(gap[0] for gap in touched)]), max([end, *(gap[1] for gap in touched)]))
        self._gaps = sorted([*apart, joined])
        while len(self._gaps) > _GAPS_LIMIT:  # a crash loop for days: the oldest two become one
            first, second, *rest = self._gaps
            self._gaps = [(first[0], first[1] + second[1] - second[0]), *rest]


def document(folder: Path, thing: str) -> Path:
    """Where a device's entry is kept in the database of a fleet's folder."""
    return folder / "devices" / thing / DOCUMENT


def as_document(entry: Entry) -> dict[str, float | int | None]:
    """An entry for the database."""
    return asdict(entry)


def read_entries(folder: Path) -> dict[str, Entry]:
    """The entries of all devices of a fleet, by thing; as of the last half second.

    Args:
        folder: The fleet's.
    """
    connection = sqlite3.connect(f"{(folder / 'documents.db').as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        rows = connection.execute("SELECT path, value FROM documents WHERE path LIKE ?", (f"%/{DOCUMENT}",)).fetchall()
    finally:
        connection.close()
    return {Path(path).parent.name: Entry(**json.loads(value)) for path, value in rows}


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
