"""Who the simulated devices of a state folder are, and what their process says of itself."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twin import TwinError
from twin.process import device_pid, fleet_folder

CONFIG_FILE, IDENTITIES, STATUS_FILE = "fleet.json", "identities.db", "status.json"


@dataclass(frozen=True)
class Identity:
    """A simulated device's: certificate and key, both PEM, whose dialect it has, and its architecture.

    An empty architecture is this machine's.
    """

    thing: str
    certificate: str
    private_key: str
    dialect: str
    architecture: str = ""


class Identities:
    """The devices of a fleet, in a file that `up --simulated` writes and the fleet's process reads.

    Args:
        path: The file; made if missing.

    Raises:
        TwinError: It is damaged or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._version = -1
        try:
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, timeout=30)
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS devices "
                    "(thing TEXT PRIMARY KEY, certificate TEXT, private_key TEXT, dialect TEXT, present INTEGER)"
                )
                if "architecture" not in {row[1] for row in self._connection.execute("PRAGMA table_info(devices)")}:
                    self._connection.execute("ALTER TABLE devices ADD COLUMN architecture TEXT DEFAULT ''")  # 0.1.0
        except (OSError, sqlite3.Error) as exc:
            raise TwinError(
                f"{path} must be the writable list of simulated devices, got: {exc}: put it back, or make room, or "
                "begin anew with `python -m twin down --purge`"
            ) from exc

    def add(self, identities: list[Identity]) -> None:
        """Note devices that have a key and are about to be registered."""
        rows = [
            (each.thing, each.certificate, each.private_key, each.dialect, 0, each.architecture) for each in identities
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO devices VALUES (?, ?, ?, ?, ?, ?)", rows)

    def certify(self, certificates: dict[str, str]) -> None:
        """Note the certificates of devices that are registered: from here on they run."""
        rows = [(pem, thing) for thing, pem in certificates.items()]
        with self._connection:
            self._connection.executemany("UPDATE devices SET certificate = ?, present = 1 WHERE thing = ?", rows)

    def changed(self) -> bool:
        """Whether somebody else has written since this was asked last; true at first."""
        before = self._version
        self._version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        return self._version != before

    def names(self, *, present: bool | None = None) -> list[str]:
        """Things, in order; of those that run, or do not, or of all."""
        rows = self._connection.execute("SELECT thing, present FROM devices ORDER BY thing")
        return [thing for thing, there in rows if present is None or bool(there) is present]

    def certificates(self) -> dict[str, int]:
        """By thing, of those that run, a number that is another one for another certificate."""
        rows = self._connection.execute("SELECT thing, certificate FROM devices WHERE present ORDER BY thing")
        return {thing: hash(certificate) for thing, certificate in rows}

    def find(self, thing: str) -> Identity | None:
        """A device's identity; None where there is no such device."""
        columns = "thing, certificate, private_key, dialect, architecture"
        row = self._connection.execute(f"SELECT {columns} FROM devices WHERE thing = ?", (thing,)).fetchone()  # noqa: S608
        return Identity(*row) if row else None

    def withdraw(self, things: list[str]) -> None:
        """Let devices run no more."""
        with self._connection:
            self._connection.executemany("UPDATE devices SET present = 0 WHERE thing = ?", [(t,) for t in things])

    def remove(self, things: list[str]) -> None:
        """Forget devices."""
        with self._connection:
            self._connection.executemany("DELETE FROM devices WHERE thing = ?", [(thing,) for thing in things])

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def names(home: Path) -> list[str]:
    """The things of the simulated devices in a state folder."""
    path = fleet_folder(home) / IDENTITIES
    if not path.is_file():
        return []
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)
    try:
        return [thing for (thing,) in connection.execute("SELECT thing FROM devices WHERE present ORDER BY thing")]
    finally:
        connection.close()


def status(home: Path) -> dict[str, Any] | None:
    """What the fleet's process last said of itself; None where there is no fleet."""
    folder = fleet_folder(home)
    if not (folder / CONFIG_FILE).is_file():
        return None
    said: dict[str, Any] = {"devices": 0, "connected": 0}
    pid = device_pid(folder)
    with contextlib.suppress(OSError, ValueError):
        last = json.loads((folder / STATUS_FILE).read_text("utf-8"))
        said = last if pid is not None and last["pid"] == pid else said  # not of a process that has ended
    return {**said, "wanted": len(names(home))}
