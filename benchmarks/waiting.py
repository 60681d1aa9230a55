"""Waiting for something with a limit, and giving a watched folder something to do."""

import json
import time
from collections.abc import Callable
from pathlib import Path


def wait_for(met: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Wait until something is so.

    Args:
        met: Tells whether it is.
        what: For the error.
        limit_s: How long at most.

    Raises:
        TimeoutError: It is not within the limit.
    """
    deadline = time.monotonic() + limit_s
    while not met():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.02)


def drop_file(watched: Path, name: str) -> None:
    """Put a request into a watched folder, complete or not at all."""
    partial = watched / f"{name}.part"
    partial.write_text(json.dumps({"index": 1}))
    partial.replace(watched / name)
