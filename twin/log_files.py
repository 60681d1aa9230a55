"""The logs of a twin: of the cloud, of the edge devices and of their components."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from twin.process import devices_folder, fleet_folder, instances_folder

POLL_S = 0.3
_FIRST_BYTES, _LINE_BYTES = 4 << 20, 512
"""Of the end of a log that are read first, and for each line that is asked for: a log may have a gigabyte."""


def find(home: Path, who: str) -> dict[str, Path]:
    """The logs whose name contains a text.

    Args:
        home: The state folder.
        who: Part of a name, upper or lower case; empty for all.

    Returns:
        Path by name: `cloud`, `edge_server`, `fleet` (simulated devices), `fleet/core_device` (why they do not start),
        `<instance id>/core_device`, `<instance id>/<component>`; devices
        beside the edge servers with their thing's name for the instance id.
    """
    found = {path.stem: path for path in sorted((home / "log").glob("*.log"))}
    for path in fleet_folder(home).glob("log/*.log"):
        found["fleet" if path.stem == "fleet" else f"fleet/{path.stem}"] = path
    edge = [*instances_folder(home).glob("*/log/*.log"), *devices_folder(home).glob("*/log/*.log")]
    for path in sorted(edge):
        found[f"{path.parent.parent.name}/{path.stem}"] = path
    return {name: path for name, path in found.items() if who.lower() in name.lower()}


def read(home: Path, who: str, *, last: int, follow: bool, about: str = "") -> Iterator[str]:
    """Lines of the logs, each with the log's name before it if there may be several.

    Args:
        home: The state folder.
        who: As for `find`.
        last: How many lines of each log to begin with.
        follow: Go on with new lines, and new logs, for ever.
        about: Leave out the lines without this text.

    Yields:
        Lines without their line end.
    """
    positions: dict[str, int] = {}
    prefixed = follow or len(find(home, who)) > 1
    while True:
        for name, path in find(home, who).items():
            first_time = name not in positions
            first_bytes = None if about or not first_time else max(_FIRST_BYTES, _LINE_BYTES * last)
            lines, positions[name] = _new_lines(path, positions.get(name, 0), first_bytes)
            lines = [line for line in lines if about in line]
            for line in deque(lines, last) if first_time else lines:
                yield f"[{name}] {line}" if prefixed else line
        if not follow:
            return
        time.sleep(POLL_S)


def _new_lines(path: Path, position: int, first_bytes: int | None) -> tuple[list[str], int]:
    """Whole lines from a position on, and the position after them; a log that shrank is read from its beginning.

    Args:
        path: The log.
        position: Where to begin.
        first_bytes: Begin at most so far from its end; None: at the position, wherever that is.
    """
    try:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            position = 0 if size < position else position
            if first_bytes is not None and size - position > first_bytes:
                position = log.seek(size - first_bytes - 1)
                position += len(log.readline(first_bytes))  # the rest of a line
            log.seek(position)
            content = log.read()
    except OSError:
        return [], position
    end = content.rfind(b"\n") + 1
    return content[:end].decode("utf-8", errors="replace").splitlines(), position + end
