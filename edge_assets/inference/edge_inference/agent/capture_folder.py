"""Captured inferences on disk: one JSON file each, bounded, the oldest dropped first."""

import contextlib
import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class CaptureFolder:
    """Keeps captures in `FOLDER/<model>/<year>/<month>/<day>/<hour>/<capture id>.json`, by the time of the inference.

    For one thread.

    Args:
        folder: Made when missing; what lies in it from earlier runs counts.
        limit_bytes: Of all captures together.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._bytes: int | None = None
        self.dropped = 0

    def store(self, model: str, capture_id: str, moment: datetime, record: dict[str, Any]) -> None:
        """Write a capture, complete or not at all.

        Args:
            model: Name that makes a folder: letters, digits and `-`.
            capture_id: Its own, a UUID.
            moment: Of the inference.
            record: What is JSON.

        Raises:
            OSError: The disk takes it not, even after older captures made room.
            ValueError: It is larger than the whole folder may be.
        """
        content = json.dumps(record, separators=(",", ":")).encode()
        if len(content) > self._limit_bytes:
            raise ValueError(f"a capture must have at most {self._limit_bytes} bytes, got {len(content)}")
        self._make_room(len(content))
        target = self._folder / model / moment.astimezone(UTC).strftime("%Y/%m/%d/%H") / f"{capture_id}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        try:
            with partial.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(target)
        except OSError:
            partial.unlink(missing_ok=True)
            raise
        self._bytes = (self._bytes or 0) + len(content)

    def _make_room(self, wanted_bytes: int) -> None:
        if self._bytes is None or self._bytes + wanted_bytes > self._limit_bytes:
            captures = sorted(self._captures())
            self._bytes = sum(size for _, size, _ in captures)
            for _, size, path in captures:
                if self._bytes + wanted_bytes <= self._limit_bytes:
                    break
                path.unlink(missing_ok=True)
                self._remove_empty(path.parent)
                self._bytes -= size
                self.dropped += 1
                log.warning("capture %s dropped to make room, %d so far", path.stem, self.dropped)

    def _captures(self) -> list[tuple[int, int, Path]]:
        found = []
        for path in self._folder.rglob("*.json"):
            # Whoever collects captures removes them: one may be gone by now.
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        return found

    def _remove_empty(self, folder: Path) -> None:
        while folder != self._folder:
            try:
                folder.rmdir()
            except OSError:
                return
            folder = folder.parent
