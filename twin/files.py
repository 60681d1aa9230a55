"""Files of the twin: where the repository is, and texts that are written at once or not at all."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
"""What a process needs on its PYTHONPATH, or as its folder, to import the twin."""


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new one.

    Args:
        path: The file; its folder exists.
        text: Written as UTF-8.
        private: Readable by its owner only.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    temporary.replace(path)
