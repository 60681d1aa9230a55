"""What a twin looks like from outside: its cloud, its edge servers, its other devices, and the logs of all of them."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.clock import Clock
from twin.devices.membership import own_things
from twin.process import device_pid, devices_folder, fleet_folder, instances_folder
from twin.simulation.identities import names as fleet_names
from twin.simulation.identities import status as fleet_status
from twin.state import TwinState, look_unsaved


@dataclass(frozen=True)
class EdgeServerStatus:
    """An EC2 instance that runs a core device.

    `phase` is provisioning, running, restarting, stopping or failed; `last_event` is a sentence, `since` epoch seconds.
    """

    instance_id: str
    thing_name: str
    phase: str
    pid: int | None
    last_event: str
    since: float


@dataclass(frozen=True)
class DeviceStatus:
    """A device of `up --devices`; without a pid it does not run at the moment."""

    thing_name: str
    pid: int | None


@dataclass(frozen=True)
class TwinStatus:
    """A running twin; `unsaved` has the services whose state could not be written, with the cause."""

    state: TwinState
    edge_servers: list[EdgeServerStatus]
    devices: list[DeviceStatus]
    simulated: dict[str, Any] | None
    unsaved: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        state = self.state
        return {
            "running": True,
            "home": str(state.home),
            "pid": state.pid,
            "endpoint": state.gateway_url,
            "region": state.region,
            "account": state.account,
            "speed": Clock.read(state.clock).speed,
            **state.ports,
            "edge_servers": [asdict(server) for server in self.edge_servers],
            "devices": [asdict(device) for device in self.devices],
            "simulated": self.simulated,
            "unsaved": self.unsaved,
        }


def take_status(state: TwinState) -> TwinStatus:
    """Read what the supervisor in the cloud's process noted about each edge server.

    Args:
        state: Of a running twin.

    Returns:
        The status now; an edge server whose note is being written is left out.
    """
    fleet = fleet_status(state.home)
    return TwinStatus(state, _edge_servers(state.home), _devices(state.home), fleet, look_unsaved(state))


def _edge_servers(home: Path) -> list[EdgeServerStatus]:
    servers = []
    for path in sorted(instances_folder(home).glob(f"*/{STATUS_FILE}")):
        try:
            servers.append(EdgeServerStatus(**json.loads(path.read_text("utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return servers


def _devices(home: Path) -> list[DeviceStatus]:
    return [DeviceStatus(thing, device_pid(devices_folder(home) / thing)) for thing in own_things(home)]


def device_roots(home: Path) -> dict[str, Path]:
    """The root folders of the twin's devices by thing name."""
    found = {each.thing_name: instances_folder(home) / each.instance_id for each in _edge_servers(home)}
    return found | {thing: devices_folder(home) / thing for thing in own_things(home)}


def device_processes(home: Path) -> dict[str, int | None]:
    """The pids of the twin's devices by thing name; None for one that does not run."""
    return {thing: device_pid(root) for thing, root in device_roots(home).items()}


@dataclass(frozen=True)
class ComponentStatus:
    """A component on a core device, as that has reported it last; `state` is Greengrass' word."""

    name: str
    version: str
    state: str


@dataclass(frozen=True)
class CoreDeviceStatus:
    """A core device as the cloud knows it; `deployment` is what became of the last one, empty without one."""

    thing_name: str
    status: str
    deployment: str
    components: list[ComponentStatus]


def core_devices(state: TwinState) -> list[CoreDeviceStatus]:
    """Ask the cloud what runs on each core device, those of `up --simulated` left out: `TwinStatus` counts them.

    Args:
        state: Of a running twin.

    Returns:
        By thing name; nothing where the cloud does not answer.
    """
    greengrass, simulated_things = _greengrass(state), set(fleet_names(state.home))
    try:
        listed = [each for each in _listed(greengrass) if each["coreDeviceThingName"] not in simulated_things]
        return [_core_device(greengrass, each["coreDeviceThingName"], each["status"]) for each in listed]
    except (BotoCoreError, ClientError):
        return []


def _core_device(greengrass: Any, thing: str, status: str) -> CoreDeviceStatus:
    pages = greengrass.get_paginator("list_installed_components").paginate(
        coreDeviceThingName=thing, topologyFilter="ALL"
    )
    components = [
        ComponentStatus(each["componentName"], each.get("componentVersion", ""), each.get("lifecycleState", ""))
        for page in pages
        for each in page["installedComponents"]
    ]
    # The one that changed last comes first.
    deployments = greengrass.list_effective_deployments(coreDeviceThingName=thing)["effectiveDeployments"]
    last = [f"{each['coreDeviceExecutionStatus']} ({each.get('reason', 'no reason yet')})" for each in deployments[:1]]
    return CoreDeviceStatus(thing, status, "".join(last), sorted(components, key=lambda each: each.name))


def joined_devices(current: TwinStatus) -> dict[str, str]:
    """Ask the cloud which core devices it knows besides the twin's own: those that came by `join`, or by a claim.

    Args:
        current: From `take_status`.

    Returns:
        Greengrass' word for its health by thing name; nothing where the cloud does not answer.
    """
    own = {each.thing_name for each in current.edge_servers} | {each.thing_name for each in current.devices}
    own |= set(fleet_names(current.state.home))
    try:
        found = {each["coreDeviceThingName"]: each["status"] for each in _listed(_greengrass(current.state))}
    except (BotoCoreError, ClientError):
        return {}
    return {thing: found[thing] for thing in sorted(found) if thing not in own}


def _greengrass(state: TwinState) -> Any:
    bounded = Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1})
    return boto3.client("greengrassv2", config=bounded, **state.client_arguments())


def _listed(greengrass: Any) -> list[Any]:
    pages = greengrass.get_paginator("list_core_devices").paginate(PaginationConfig={"PageSize": 100})
    return sorted(
        (each for page in pages for each in page["coreDevices"]), key=lambda each: each["coreDeviceThingName"]
    )


STATUS_FILE = "edge_server.json"


_POLL_S = 0.3
_FIRST_BYTES, _LINE_BYTES = 4 << 20, 512
"""Of the end of a log that are read first, and for each line that is asked for: a log may have a gigabyte."""


def find_logs(home: Path, who: str) -> dict[str, Path]:
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


def read_logs(home: Path, who: str, *, last: int, follow: bool, about: str = "") -> Iterator[str]:
    """Lines of the logs, each with the log's name before it if there may be several.

    Args:
        home: The state folder.
        who: As for `find_logs`.
        last: How many lines of each log to begin with.
        follow: Go on with new lines, and new logs, for ever.
        about: Leave out the lines without this text.

    Yields:
        Lines without their line end.
    """
    positions: dict[str, int] = {}
    prefixed = follow or len(find_logs(home, who)) > 1
    while True:
        for name, path in find_logs(home, who).items():
            first_time = name not in positions
            first_bytes = None if about or not first_time else max(_FIRST_BYTES, _LINE_BYTES * last)
            lines, positions[name] = _new_lines(path, positions.get(name, 0), first_bytes)
            lines = [line for line in lines if about in line]
            for line in deque(lines, last) if first_time else lines:
                yield f"[{name}] {line}" if prefixed else line
        if not follow:
            return
        time.sleep(_POLL_S)


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
