"""A component's log file: what it writes, cut into files of bounded size."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

_TAIL_BYTES = 4096


class ComponentLog:
    """Appends a component's output to a file and keeps its last line at hand.

    Args:
        path: The file; full ones are kept as `<name>.1`, `<name>.2`.
        limit_bytes: Size at which a new file is begun.
        kept: How many full ones are kept.
    """

    def __init__(self, path: Path, limit_bytes: int = 1 << 20, kept: int = 2) -> None:
        self._path, self._limit_bytes, self._kept = path, limit_bytes, kept
        self._stream: BinaryIO | None = None
        self._tail = b""

    def write(self, output: bytes) -> None:
        """Append output of the component."""
        self._tail = (self._tail + output)[-_TAIL_BYTES:]
        self._append(output)

    def note(self, text: str) -> None:
        """Append a line of the device's own, which does not count as output."""
        start = b"" if self._tail.endswith(b"\n") or not self._tail else b"\n"
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._append(start + f"[core device {stamp}] {text}\n".encode())

    def forget_output(self) -> None:
        """Begin a new step: the last line is that of the new step's output."""
        self._tail = b""

    def last_line(self) -> str:
        """The last line of output that is not blank, cut to 300 characters; empty when there was none."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""

    def close(self) -> None:
        """Close the file; a later write opens it again."""
        if self._stream:
            self._stream.close()
            self._stream = None

    def _append(self, output: bytes) -> None:
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("ab")
        self._stream.write(output)
        self._stream.flush()
        if self._stream.tell() >= self._limit_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self.close()
        for number in range(self._kept, 0, -1):
            source = self._path if number == 1 else self._path.with_name(f"{self._path.name}.{number - 1}")
            if source.exists():
                source.replace(self._path.with_name(f"{self._path.name}.{number}"))
