"""The processes of a deployed twin's edge side: its core device, and the inference component that it started."""

import json
from pathlib import Path

import psutil


def device_pid(home: Path) -> int | None:
    """The core device's process; None for the moment in which it writes its number down, or before it has.

    Args:
        home: The twin's state folder, with one edge server.
    """
    for path in home.glob("instances/*/core_device.pid"):
        try:
            text = path.read_text()
        except FileNotFoundError:
            return None
        return int(json.loads(text)["pid"]) if text else None
    return None


def inference_process(home: Path) -> psutil.Process:
    """The process of the inference component.

    Args:
        home: The twin's state folder.

    Raises:
        LookupError: There is none at the moment, or more than one.
    """
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "edge_inference" in (process.info["cmdline"] or []) and str(home) in " ".join(process.info["cmdline"])
    ]
    if len(found) != 1:
        raise LookupError(f"one inference process expected, got {found}")
    return found[0]
