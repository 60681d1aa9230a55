"""What a simulated device went through since measuring began, by the time of its model.

The model's time holds what a profile prescribes: steps, downloads at a bandwidth, starts. What this machine takes for
its own work, and the random pauses between restarts, are not in it: the same seed gives the same figures at each speed,
on a busy machine as on an idle one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from twin.core_device.components.component import Patience

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
