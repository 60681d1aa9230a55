"""Small JSON files that survive a kill at any moment."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
    """Replace a file's content in one step: a reader, or a restart, sees the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w") as stream:
        json.dump(value, stream, separators=(",", ":"))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The file's content, or None when there is no file; an unreadable one is set aside as `<name>.damaged`."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as exc:
        damaged = path.with_name(path.name + ".damaged")
        log.error("%s is not JSON (%s): it is kept as %s and the device starts without it", path, exc, damaged.name)
        path.replace(damaged)
        return None
