"""Files that are predicted without a request: one at an interval, or all that appear in a folder."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_inference.configuration import ModelSettings

log = logging.getLogger(__name__)

#: Files that are still being written carry one of these, or a dot in front; a failed one is put aside by the last.
UNFINISHED = (".part", ".tmp", ".failed")
FAILED = ".failed"
#: More wait in the folder, not in memory.
BATCH = 16


@dataclass(frozen=True)
class FileJob:
    """A file to predict.

    Args:
        path: Where it lies.
        watched: Whether it came from the watched folder, from which it is removed once its result is safe.
    """

    path: Path
    watched: bool = False

    def done(self) -> None:
        """Take the file out of the watched folder."""
        if self.watched:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as exc:
                log.error("%s is predicted again, it cannot be removed: %s", self.path, exc)

    def failed(self) -> None:
        """Put the file aside, so that it does not fail for ever; its content may be of interest."""
        if self.watched:
            try:
                self.path.replace(self.path.with_name(f"{self.path.name}{FAILED}"))
            except FileNotFoundError:
                log.debug("%s is gone already", self.path)
            except OSError as exc:
                log.error("%s is tried again, it cannot be put aside: %s", self.path, exc)


class FileSource:
    """Knows which files are due; for one thread."""

    def __init__(self) -> None:
        self._last: tuple[Path, int, float] | None = None

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
            yield from _watched(Path(settings.watch_directory))

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


def _watched(folder: Path) -> Iterator[FileJob]:
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as exc:
        log.debug("the watched folder %s cannot be read: %s", folder, exc)
        return
    ready = [name for name in names if not name.startswith(".") and not name.endswith(UNFINISHED)]
    for name in ready[:BATCH]:
        yield FileJob(folder / name, watched=True)
