"""Captured records on disk, waiting for their upload."""

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

PNG = b"\x89PNG"
HOUR = "%Y/%m/%d/%H"
STAMP = "%Y%m%dT%H%M%S%f"


@dataclass(frozen=True)
class Capture:
    """A record, with its picture where the input was one.

    Args:
        record: JSON file of the record.
        picture: The picture's file; None without.
        model: The model's name.
        hour: `YYYY/MM/DD/HH` in UTC, part of the keys.
    """

    record: Path
    picture: Path | None
    model: str
    hour: str

    @property
    def size(self) -> int:
        """Bytes on disk; 0 for what is gone."""
        return sum(file.stat().st_size for file in self.files if file.exists())

    @property
    def files(self) -> list[Path]:
        """The picture first: a record never names a picture that is not there yet."""
        return [self.picture, self.record] if self.picture else [self.record]

    def remove(self) -> None:
        """Delete the files, the record first."""
        for file in reversed(self.files):
            file.unlink(missing_ok=True)


class CaptureFolder:
    """Records in the order of their moments; safe from any thread.

    Args:
        path: The folder; made when the first record comes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dropped = 0
        self._bytes: int | None = None
        self._lock = threading.Lock()

    def add(
        self, model: str, identifier: str, record: Mapping[str, object], image: bytes | None, moment: datetime
    ) -> Capture:
        """Write a record.

        Args:
            model: The model's name.
            identifier: Of this record, unique.
            record: All but id and picture.
            image: The encoded picture that was predicted, if it was one.
            moment: When, in UTC.

        Returns:
            The capture.

        Raises:
            OSError: The disk is full or broken; nothing is left of the record.
        """
        with self._lock:
            return self._add(model, identifier, record, image, moment)

    def _add(
        self, model: str, identifier: str, record: Mapping[str, object], image: bytes | None, moment: datetime
    ) -> Capture:
        self.path.mkdir(parents=True, exist_ok=True)
        base = self.path / f"{moment.strftime(STAMP)}.{model}.{identifier}"
        suffix = "" if image is None else ".png" if image.startswith(PNG) else ".jpg"
        picture = base.with_name(base.name + suffix) if image is not None else None
        capture = Capture(base.with_name(base.name + ".json"), picture, model, moment.strftime(HOUR))
        named = {"id": identifier, **record, **({"picture": f"{identifier}{suffix}"} if picture else {})}
        try:
            if picture is not None and image is not None:
                picture.write_bytes(image)
            new = base.with_name(f".{base.name}")
            new.write_text(json.dumps(named, separators=(",", ":")), encoding="ascii")
            new.replace(capture.record)
        except OSError:
            capture.remove()
            base.with_name(f".{base.name}").unlink(missing_ok=True)
            raise
        if self._bytes is not None:
            self._bytes += capture.size
        return capture

    def waiting(self) -> list[Capture]:
        """List the complete records, the oldest first; what has no record's name is left out."""
        if not self.path.is_dir():
            return []
        found = (_capture(file) for file in sorted(self.path.glob("*.json")) if not file.name.startswith("."))
        return [capture for capture in found if capture is not None]

    def remove(self, capture: Capture) -> None:
        """Forget a record that is uploaded."""
        with self._lock:
            self._remove(capture)

    def _remove(self, capture: Capture) -> None:
        size = capture.size
        capture.remove()
        if self._bytes is not None:
            self._bytes -= size

    def shrink(self, limit_bytes: int) -> None:
        """Drop the oldest records until the others fit.

        Args:
            limit_bytes: The largest size of all records and pictures together.
        """
        with self._lock:
            self._shrink(limit_bytes)

    def _shrink(self, limit_bytes: int) -> None:
        if self._bytes is None:
            self._bytes = sum(file.stat().st_size for file in self.path.iterdir())
        if self._bytes <= limit_bytes:
            return
        for capture in self.waiting():
            if self._bytes <= limit_bytes:
                return
            self._remove(capture)
            self.dropped += 1
        # What is left over limit belongs to no record: a process was killed while it wrote.
        for file in list(self.path.iterdir()) if self._bytes > limit_bytes else []:
            file.unlink(missing_ok=True)
        self._bytes = None


def _capture(record: Path) -> Capture | None:
    try:
        stamp, model, _identifier, _json = record.name.split(".")
        hour = datetime.strptime(stamp, STAMP).strftime(HOUR)  # noqa: DTZ007 - UTC both ways
    except ValueError:
        log.debug("%s is no capture", record)
        return None
    pictures = (record.with_suffix(suffix) for suffix in (".png", ".jpg"))
    picture = next((file for file in pictures if file.exists()), None)
    return Capture(record, picture, model, hour)
