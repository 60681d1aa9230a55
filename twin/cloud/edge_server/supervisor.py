"""Keeps one edge server for each running instance whose user data describes one, and the devices of `up --devices`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from ministack.core.responses import request_scope
from ministack.services import ec2, iot

from config.names import NUCLEUS_TAG
from twin.clock import CLOCK
from twin.cloud.edge_server.device_process import DeviceProcess, KeptDevice
from twin.cloud.edge_server.edge_server import JOINED, EdgeServer, UserDataError, parse
from twin.cloud.ministack.patches import require
from twin.cloud.ministack.registry import register_periodic
from twin.cloud_process import EDGE_SERVER_LOG, Settings
from twin.devices.identity import CERTIFICATE, CONFIG_FILE, KEY, ROOT_CA, point_at
from twin.files import write_whole
from twin.process import (
    DEVICE_VARIABLE,
    devices_folder,
    end_edge_processes,
    fleet_folder,
    instances_folder,
    processes_where,
)
from twin.simulation.identities import CONFIG_FILE as FLEET_CONFIG

logger = logging.getLogger("twin.edge_server")

_LOOK_S = 0.25
"""How often the instances are compared with the edge servers; that covers CloudFormation, the API and a restart."""


class Supervisor:
    """Starts and removes edge servers as instances come and go; devices outlive a restart of the cloud."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[str, tuple[EdgeServer, asyncio.Task[None]]] = {}
        self._refused: set[str] = set()

    async def start(self) -> None:
        """Drop what a kill left half made, and remove what instances of an earlier run left."""
        drop_half_made(self._settings)
        await asyncio.to_thread(_remove_strays, instances_folder(self._settings.home), self._instance_ids())

    async def look(self) -> None:
        """Compare the instances with the edge servers."""
        await self._restart_changed()
        self._start_new()
        await self._remove_gone()

    async def stop(self) -> None:
        """Stop; the devices run on until the next start takes them over, or `python -m twin down`."""
        for _server, task in self._servers.values():
            task.cancel()
        await asyncio.gather(
            *(task for _server, task in self._servers.values()),
            *(server.abandon_provisioning() for server, _task in self._servers.values()),
            return_exceptions=True,
        )

    def _instance_ids(self) -> set[str]:
        return {key[2] for key, instance in ec2._instances._data.items() if _state(instance) != "terminated"}

    def _start_new(self) -> None:
        for (account, region, instance_id), instance in list(ec2._instances._data.items()):
            if instance_id in self._servers or instance_id in self._refused or _state(instance) != "running":
                continue
            try:
                edge = parse(instance.get("UserData") or "")
            except UserDataError as exc:
                logger.error("%s does not become an edge server: %s", instance_id, exc)
                edge = None
            if edge is None:
                self._refused.add(instance_id)
                continue
            profile_arn = (instance.get("IamInstanceProfile") or {}).get("Arn", "")
            dialect = _dialect(account, region, instance_id)
            server = EdgeServer(account, instance_id, profile_arn, edge, self._settings, dialect)
            self._servers[instance_id] = (server, asyncio.create_task(server.run()))

    async def _restart_changed(self) -> None:
        """Let go of the servers whose tag says another nucleus now: they start anew, as the same thing."""
        for (account, region, instance_id), instance in list(ec2._instances._data.items()):
            server, task = self._servers.get(instance_id, (None, None))
            if server is None or task is None or _state(instance) != "running":
                continue
            if _dialect(account, region, instance_id) != server.dialect:
                del self._servers[instance_id]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await server.abandon_provisioning()

    async def _remove_gone(self) -> None:
        states = {key[2]: _state(instance) for key, instance in list(ec2._instances._data.items())}
        for instance_id, (server, task) in list(self._servers.items()):
            state = states.get(instance_id, "terminated")
            if state == "running":
                continue
            del self._servers[instance_id]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.remove(keep_files=state == "stopped")


def _state(instance: dict[str, dict[str, str]]) -> str:
    return instance["State"]["Name"]


def _dialect(account: str, region: str, instance_id: str) -> str:
    """`classic` where the stage says that no device has nucleus lite, whose stricter limits hold otherwise."""
    tags = ec2._tags._data.get((account, region, instance_id)) or []
    return "classic" if {"Key": NUCLEUS_TAG, "Value": "classic"} in tags else "lite"


def _remove_strays(folder: Path, instance_ids: set[str]) -> None:
    for root in folder.glob("*") if folder.is_dir() else ():
        if root.name not in instance_ids:
            logger.warning("%s has no instance any more: ending its device, deleting its folder", root)
            end_edge_processes(root)
            shutil.rmtree(root, ignore_errors=True)


class SimulatedDevices:
    """The devices of a state folder, one for each folder with a configuration; they outlive a restart of the cloud."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = devices_folder(settings.home)
        self._devices: dict[str, KeptDevice] = {}

    async def start(self) -> None:
        """Take over what an earlier cloud process started."""
        await asyncio.to_thread(self._take_over)

    def _take_over(self) -> None:
        for path in self._folder.glob(f"*/{CONFIG_FILE}"):
            device = self._devices[path.parent.name] = KeptDevice(DeviceProcess(path.parent))
            moved = self._point_at_proxy(path)
            if not _runs(path.parent):
                continue
            if moved:
                end_edge_processes(path.parent)
            else:
                device.adopt()

    def _point_at_proxy(self, path: Path) -> bool:
        """Write the proxy's present port into a configuration; returns whether it was another one."""
        try:
            return point_at(path, self._settings.proxy_port)
        except (OSError, ValueError) as exc:
            logger.error("%s cannot be read: %r", path, exc)
            return False

    async def look(self) -> None:
        """End the devices whose configuration is gone, and keep the others running."""
        wanted = {path.parent.name: path.parent for path in self._folder.glob(f"*/{CONFIG_FILE}")}
        for thing in [thing for thing in self._devices if thing not in wanted]:
            await asyncio.to_thread(self._devices.pop(thing).process.end)
        for thing, root in wanted.items():
            device = self._devices.setdefault(thing, KeptDevice(DeviceProcess(root)))
            with contextlib.suppress(psutil.NoSuchProcess):
                if (news := device.look()) and news[0] == "restarting":
                    logger.warning("%s: %s", thing, news[1])


class SimulatedFleet:
    """The one process of all simulated devices, kept running while the state folder has a fleet."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = fleet_folder(settings.home)
        self._fleet: KeptDevice | None = None

    async def start(self) -> None:
        """Take over what an earlier cloud process started; one that knows other ports begins anew."""
        await asyncio.to_thread(self._take_over)

    def _take_over(self) -> None:
        path = self._folder / FLEET_CONFIG
        ports = {"mqtt_port": self._settings.mqtt_port, "proxy_port": self._settings.proxy_port}
        try:
            known = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            logger.error("%s cannot be read: %r", path, exc)
            return
        if any(known.get(name) != port for name, port in ports.items()):
            end_edge_processes(self._folder)
            write_whole(path, json.dumps({**known, **ports}), private=True)

    async def look(self) -> None:
        """Keep the process running, and end it when the fleet is gone."""
        wanted = (self._folder / FLEET_CONFIG).is_file()
        if not wanted and self._fleet is not None:
            fleet, self._fleet = self._fleet, None
            await asyncio.to_thread(fleet.process.end)
        if not wanted:
            return
        if self._fleet is None:
            self._fleet = KeptDevice(DeviceProcess(self._folder, "twin.simulation.fleet", FLEET_CONFIG))
            self._fleet.adopt()
        with contextlib.suppress(psutil.NoSuchProcess):
            if (news := self._fleet.look()) and news[0] == "restarting":
                logger.warning("simulated fleet: %s", news[1])


def _runs(folder: Path) -> bool:
    return bool(processes_where(lambda environment: environment.get(DEVICE_VARIABLE) == str(folder)))


def install(settings: Settings) -> None:
    """Supervise with the cloud; the log is `log/edge_server.log`."""
    supervisor, simulated, fleet = Supervisor(settings), SimulatedDevices(settings), SimulatedFleet(settings)

    async def start() -> None:
        handler = logging.FileHandler(settings.home / EDGE_SERVER_LOG)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        await supervisor.start()

    register_periodic("edge servers", supervisor.look, interval_s=_LOOK_S, first=start, last=supervisor.stop)
    register_periodic("simulated fleet", fleet.look, interval_s=_LOOK_S, first=fleet.start)
    register_periodic("devices", simulated.look, interval_s=_LOOK_S, first=simulated.start)


require("services.iot._certificates", why="half made ones are dropped", signature="AccountRegionScopedDict")
require("services.iot._policies_attached_to", why="half made ones are known", signature="(target)")

_EARLIER_S = 1.0
"""The folder's files and the cloud's record are not written at one moment."""


def drop_half_made(settings: Settings) -> None:
    """Compare each instance's folder with the certificates of the snapshot; before anything is served."""
    try:
        saved = (settings.home / "state" / "iot.json").stat().st_mtime
    except OSError:
        saved = 0.0
    with request_scope(settings.account, settings.region):
        for root in sorted(instances_folder(settings.home).glob("*")):
            if (root / ROOT_CA).exists() and _is_newer(root, saved) and not _is_whole(root):
                _drop(root)


def _is_newer(root: Path, saved: float) -> bool:
    """Whether the snapshot is older than the device's certificate; one that somebody detached since stays detached."""
    try:
        return (root / JOINED).stat().st_mtime >= saved
    except OSError:
        return True


def _is_whole(root: Path) -> bool:
    """Whether the device's certificate is there and attached to a policy and a thing."""
    record = iot._certificates.get(_identifier(root))
    return record is not None and bool(record.get("attachedThings")) and bool(_policies(record))


def _drop(root: Path) -> None:
    for record in list(_begun_by(root)):
        logger.warning("certificate %s… was half made when the cloud was killed: dropped", record["certificateId"][:12])
        del iot._certificates[record["certificateId"]]
    # Without them the provisioning begins anew.
    for name in (CONFIG_FILE, JOINED, CERTIFICATE, KEY):
        (root / name).unlink(missing_ok=True)


def _begun_by(root: Path) -> Iterator[dict[str, Any]]:
    """The device's certificate, or those with nothing attached that were made since its provisioning began."""
    # It is written right before the certificate is asked for.
    began, identifier = CLOCK.at((root / ROOT_CA).stat().st_mtime), _identifier(root)
    for record in iot._certificates.values():
        if record.get("attachedThings") or _policies(record):
            continue
        made_since = not identifier and float(record.get("creationDate", 0)) >= began - _EARLIER_S
        if record["certificateId"] == identifier or made_since:
            yield record


def _identifier(root: Path) -> str:
    try:
        return str(json.loads((root / JOINED).read_text("utf-8"))["certificateId"])
    except (OSError, ValueError):
        return ""


def _policies(record: dict[str, Any]) -> list[Any]:
    return list(iot._policies_attached_to(record["certificateArn"]))
