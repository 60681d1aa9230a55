"""Which process groups belong to the device's components, known even to its successor."""

from __future__ import annotations

import logging
from pathlib import Path

from .files import read_json, write_json
from .process_identity import end_process_group, start_ticks

log = logging.getLogger(__name__)


class ProcessRegistry:
    """A file of process groups.

    Args:
        path: The file; missing means none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._groups: dict[int, int] = {}

    def end_leftovers(self) -> int:
        """End the groups that a killed predecessor has left; returns how many there were."""
        ended = 0
        for leader, ticks in (read_json(self._path) or {}).items():
            if end_process_group(int(leader), int(ticks)):
                log.warning("ended process group %s, left over from a killed device", leader)
                ended += 1
        self._save()
        return ended

    def add(self, pid: int) -> None:
        """Note a group by its first process; one that is gone already is not noted."""
        ticks = start_ticks(pid)
        if ticks is not None:
            self._groups[pid] = ticks
            self._save()

    def remove(self, pid: int) -> None:
        """Forget a group that has ended."""
        if self._groups.pop(pid, None) is not None:
            self._save()

    def _save(self) -> None:
        write_json(self._path, self._groups)
