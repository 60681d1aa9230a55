"""Faults of a real core device that a twin's device shows on command, and what takes them back."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
from pathlib import Path

import psutil

from twin import TwinError
from twin.core_device.processes import FAULTS as DAEMONS
from twin.process import CUT_OFF, with_descendants
from twin.state import NETWORK_PATH, TwinState, ask_cloud
from twin.status import device_processes, device_roots

FAULTS = {
    "kill-component": "kill the inference component",
    "kill": "kill the core device",
    "cut-network": "cut its network",
    "restore-network": "give its network back",
    "fill-disk": "fill its disk",
    "free-disk": "free its disk",
    "mqtt": "lose its MQTT daemon",
    "ipc": "lose its IPC daemon",
    "config": "lose its configuration daemon",
    "pubsub": "lose its daemon for local messages",
    "token": "lose its token exchange",
    "broker": "start its broker for client devices anew, with a new certificate",
}
"""What each does, in words."""

_LIMIT_S = 10.0


def do(state: TwinState, device: str, fault: str, component: str) -> str:
    """Let a device have a fault, or take one back.

    Args:
        state: Of a running twin.
        device: Thing name of an edge server or of a device of `up --devices`.
        fault: One of `FAULTS`.
        component: Which one `kill-component` kills.

    Returns:
        What was done, and what comes of it.

    Raises:
        TwinError: There is no such fault, no such device that runs, or it cannot be done on this machine.
    """
    if fault not in FAULTS:
        raise TwinError(f"FAULT must be one of {', '.join(FAULTS)}, got {fault!r}")
    running = {thing: pid for thing, pid in device_processes(state.home).items() if pid is not None}
    if fault in ("cut-network", "restore-network"):
        return _network(state, device, cut=fault == "cut-network")
    if device not in running:
        known = ", ".join(sorted(running)) or "none"
        raise TwinError(f"DEVICE must be a device of this twin that runs, got {device!r}: there are {known}")
    pid = running[device]
    try:
        if fault == "kill":
            os.kill(pid, signal.SIGKILL)
            return f"{device}: its process {pid} was killed; the twin starts it again"
        if fault == "kill-component":
            return _kill_component(device, pid, component)
        if fault in ("fill-disk", "free-disk"):
            return _disk(device, pid, full=fault == "fill-disk")
        os.kill(pid, DAEMONS[fault])
        if fault == "broker":
            return f"{device}: its broker starts anew with a new certificate, if it has one; client devices come back"
    except (ProcessLookupError, psutil.NoSuchProcess) as exc:
        raise TwinError(f"{device} must run, it ended this moment: {exc}: try again") from exc
    return f"{device} has lost its {fault} daemon, which is back at once; its components do not know"


def _kill_component(device: str, pid: int, component: str) -> str:
    """Kill a component's process group; the nucleus starts it again, at most three times within an hour."""
    found: dict[str, psutil.Process] = {}
    for child in psutil.Process(pid).children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            found[Path(child.cwd()).name] = child
    if component not in found:
        raise TwinError(f"component {component} must run on {device}, there are {', '.join(sorted(found)) or 'none'}")
    os.killpg(found[component].pid, signal.SIGKILL)
    return f"{device}: {component} was killed; the nucleus starts it again, at most three times within an hour"


def _disk(device: str, pid: int, *, full: bool) -> str:
    """A limit of file sizes stands for the full disk: no root is needed, and only this device has it."""
    if not hasattr(psutil, "RLIMIT_FSIZE"):
        raise TwinError("a disk can be filled on Linux only: this system sets no limits of other processes")
    changed = 0
    for process in with_descendants([psutil.Process(pid)]):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            _soft, hard = process.rlimit(psutil.RLIMIT_FSIZE)
            process.rlimit(psutil.RLIMIT_FSIZE, (0 if full else hard, hard))
            changed += 1
    what = "can make no file longer" if full else "can write again"
    return (
        f"{device}: its {changed} processes {what}{' (a limit of file sizes stands for the full disk)' if full else ''}"
    )


def _network(state: TwinState, device: str, *, cut: bool) -> str:
    """Have the twin's proxy, a device's only way to the cloud, end and refuse the device's connections."""
    roots = device_roots(state.home)
    if device not in roots:
        known = ", ".join(sorted(roots)) or "none"
        raise TwinError(f"DEVICE must be one of the twin's own devices, got {device!r}: there are {known}")
    mark = roots[device] / CUT_OFF
    if not cut:
        mark.unlink(missing_ok=True)
        return f"{device} may connect again, and does within 30 s"
    mark.touch()
    try:
        ended = int(ask_cloud(state, "POST", NETWORK_PATH, b"", _LIMIT_S)["ended"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
        raise TwinError(f"the twin must end the connections of {device}, got {exc}: is it the version of up?") from exc
    return f"{device}: {ended} connections were ended, new ones are refused; its messages wait or are lost"
