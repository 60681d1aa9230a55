"""The processes on the edge side of a twin: core devices, and the components that outlive a killed one."""

from __future__ import annotations

import shutil
from pathlib import Path

from twin.core_device.files import socket_folders
from twin.process import end_processes, processes_where, with_descendants

DEVICE_VARIABLE = "TWIN_DEVICE_ROOT"
"""In the environment of a core device: its root folder."""

COMPONENT_VARIABLE = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"
_TERM_S = 10.0


def instances_folder(home: Path) -> Path:
    """Where the root folders of the core devices lie, one for each instance id."""
    return home / "instances"


def devices_folder(home: Path) -> Path:
    """Where the root folders of the devices of `up --devices` lie, one for each thing."""
    return home / "devices"


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
