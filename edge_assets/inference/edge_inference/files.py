"""Files that are predicted without a message: one at an interval, or all that appear in a folder."""

import heapq
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_inference.messages import ErrorCode, Request, RequestError, json_object, of_message
from edge_inference.models.integrity import open_file
from edge_inference.settings import ModelSettings

log = logging.getLogger(__name__)

PICTURE_BYTES = 16 << 20
#: Files that are still being written carry one of these, or a dot in front; a failed one is put aside by the last.
UNFINISHED = (".part", ".tmp", ".failed")
FAILED = ".failed"
#: More wait in the folder, not in memory.
BATCH = 16
#: A file that changed so recently may still be written, whatever its name; a copy over a network pauses for less.
SETTLE_S = 5.0
#: Files that are remembered for staying in the folder.
STUCK = 65_536
#: Time of the last change, size and number of a file: what tells it from another one of its name.
Stamp = tuple[int, int, int]


def read_file(path: Path, max_bytes: int) -> Request:
    """Read a file as a request: JSON as on the request topic, anything else is taken for a picture.

    Args:
        path: The file; its name is the request's id.
        max_bytes: The largest JSON that is accepted; a picture may have 16 MiB.

    Returns:
        The request.

    Raises:
        RequestError: It is missing, no regular file, too large or not a request.
    """
    is_json = path.suffix.lower() == ".json"
    content = _read(path, max_bytes if is_json else PICTURE_BYTES)
    return of_message(json_object(content), path.name) if is_json else Request(path.name, image=content)


def _read(path: Path, limit: int) -> bytes:
    try:
        with open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > limit:
                raise RequestError(ErrorCode.REQUEST_TOO_LARGE, f"{path} must have at most {limit} bytes, got {size}")
            # By the file's size: to ask for the limit would cost a buffer of that size, file after file.
            return stream.read(size)
    except OSError as exc:
        raise RequestError(ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {exc.strerror}") from exc


@dataclass(frozen=True)
class FileJob:
    """A file to predict.

    Args:
        path: Where it lies.
        watched: Whether it came from the watched folder, from which it is removed once its result is safe.
        stamp: Of the file when it was found: one that was written anew since then stays for another prediction; by
            default nobody looks.
        stuck: Told when the file cannot be taken out of the folder.
    """

    path: Path
    watched: bool = False
    stamp: Stamp | None = field(default=None, compare=False)
    stuck: Callable[[Path], None] = field(default=lambda _path: None, compare=False, repr=False)

    def is_growing(self) -> bool:
        """Whether the file may still be written, so that what is wrong with it may be right in a moment."""
        try:
            return self.watched and 0 <= time.time() - self.path.stat().st_mtime < SETTLE_S
        except OSError:
            return False

    def done(self) -> None:
        """Take the file out of the watched folder."""
        self._take(self.path.unlink, "removed")

    def failed(self) -> None:
        """Put the file aside, so that it does not fail for ever; its content may be of interest."""
        self._take(lambda: self.path.replace(self.path.with_name(f"{self.path.name}{FAILED}")), "put aside")

    def _take(self, take: Callable[[], object], said: str) -> None:
        if not self.watched or self._is_another():
            return
        try:
            take()
        except FileNotFoundError:
            log.debug("%s is gone already", self.path)
        except OSError as exc:
            log.error("%s stays and is left alone until it changes, it cannot be %s: %s", self.path, said, exc)
            self.stuck(self.path)

    def _is_another(self) -> bool:
        try:
            return self.stamp is not None and _stamp(self.path.stat()) != self.stamp
        except OSError:
            return False


class FileSource:
    """Knows which files are due; for one thread."""

    def __init__(self) -> None:
        self._last: tuple[Path, int, float] | None = None
        # Files that could not be taken out of the watched folder.
        self._stuck: dict[str, Stamp] = {}

    def due(self, settings: ModelSettings, package: Path, now: float) -> Iterator[FileJob]:
        """List the files to predict now.

        Args:
            settings: What to look at.
            package: Folder of the model's package, where a file is looked for unless the settings name a folder.
            now: Monotonic seconds.

        Yields:
            Jobs, at most 17.
        """
        if settings.image_name:
            yield from self._scheduled(Path(settings.image_directory or package) / settings.image_name, settings, now)
        else:
            self._last = None
        if settings.watch_directory:
            yield from self._watched(Path(settings.watch_directory))

    def _scheduled(self, path: Path, settings: ModelSettings, now: float) -> Iterator[FileJob]:
        try:
            written = path.stat().st_mtime_ns
        except OSError:
            written = 0  # reading it will say why, once an interval
        last = self._last
        overdue = last is not None and settings.interval_s > 0 and now >= last[2] + settings.interval_s
        if last is None or overdue or last[:2] != (path, written):
            self._last = (path, written, now)
            yield FileJob(path)

    def _watched(self, folder: Path) -> Iterator[FileJob]:
        try:
            with os.scandir(folder) as entries:
                ready = heapq.nsmallest(BATCH, (entry.name for entry in entries if self._is_ready(entry)))
        except OSError as exc:
            log.debug("the watched folder %s cannot be read: %s", folder, exc)
            return
        for name in ready:
            try:
                stamp = _stamp((folder / name).stat())
            except OSError:
                continue  # gone by now
            yield FileJob(folder / name, watched=True, stamp=stamp, stuck=self._leave)

    def _is_ready(self, entry: os.DirEntry[str]) -> bool:
        name = entry.name
        if name.startswith(".") or name.endswith(UNFINISHED):
            return False
        try:
            return entry.is_file() and (name not in self._stuck or self._stuck[name] != _stamp(entry.stat()))
        except OSError:  # a link that leads nowhere
            return False

    def _leave(self, path: Path) -> None:
        if len(self._stuck) >= STUCK:
            self._stuck.clear()
        try:
            self._stuck[path.name] = _stamp(path.stat())
        except OSError:
            log.debug("%s is gone", path)


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_size, status.st_ino
