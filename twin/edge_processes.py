"""The processes on the edge side of a twin: core devices, and the components that outlive a killed one."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import psutil

from twin.core_device.files import socket_folders
from twin.process import ProcessIdentity, end_processes, processes_where, with_descendants

DEVICE_VARIABLE = "TWIN_DEVICE_ROOT"
"""In the environment of a core device: its root folder."""

CUT_OFF = "cut-off"
"""File in a device's root folder: as long as it is there, the twin's proxy lets the device through no more."""

COMPONENT_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_TERM_S = 20.0


def instances_folder(home: Path) -> Path:
    """Where the root folders of the core devices lie, one for each instance id."""
    return home / "instances"


def devices_folder(home: Path) -> Path:
    """Where the root folders of the devices of `up --devices` lie, one for each thing."""
    return home / "devices"


def device_pid(root: Path) -> int | None:
    """Of the core device on a root folder, as it noted it itself; None if it does not run."""
    try:
        noted = json.loads((root / "core_device.pid").read_text("utf-8"))
        process = ProcessIdentity(int(noted["pid"]), float(noted["started"])).process()
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return process.pid if process else None


def ports_of(root: Path) -> set[int]:
    """Local ports of the TCP connections that the core device on a root folder and its components have."""
    pid = device_pid(root)
    found: set[int] = set()
    for process in with_descendants([psutil.Process(pid)] if pid else []):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found |= {connection.laddr.port for connection in process.net_connections("tcp") if connection.laddr}
    return found


def fleet_folder(home: Path) -> Path:
    """Where everything of the simulated fleet lies, all devices in one process."""
    return home / "simulated"


def end_edge_processes(folder: Path) -> int:
    """End the core devices with a root folder below a folder, and their components.

    Devices are told first, so that they can stop their components in order; whatever is left is ended after that.

    Args:
        folder: A twin's state folder, or the root folder of one device.

    Returns:
        How many processes there were.
    """
    sockets = socket_folders(folder)

    def lies_below(path: str | None) -> bool:
        return path is not None and (Path(path).is_relative_to(folder) or Path(path).parent in sockets)

    devices = processes_where(
        lambda environment: COMPONENT_VARIABLE not in environment and lies_below(environment.get(DEVICE_VARIABLE))
    )
    family = with_descendants(devices)
    end_processes(devices, term_s=_TERM_S)
    orphans = with_descendants(processes_where(lambda environment: lies_below(environment.get(COMPONENT_VARIABLE))))
    rest = {process.pid: process for process in [*family, *orphans]}
    end_processes(rest.values(), term_s=3.0)
    for temporary in sockets:
        shutil.rmtree(temporary, ignore_errors=True)
    return len({process.pid for process in [*devices, *rest.values()]})
