"""Keeps one edge server for each running instance whose user data describes one."""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from ministack.services import ec2

from twin.cloud.edge_server.edge_server import EdgeServer
from twin.cloud.edge_server.simulated_devices import SimulatedDevices
from twin.cloud.edge_server.user_data import UserDataError, parse
from twin.cloud.registry import Settings, register_background
from twin.edge_processes import end_edge_processes, instances_folder

logger = logging.getLogger("twin.edge_server")

_LOOK_S = 0.25
"""How often the instances are compared with the edge servers; that covers CloudFormation, the API and a restart."""


class Supervisor:
    """Starts and removes edge servers as instances come and go; devices outlive a restart of the cloud."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._servers: dict[str, tuple[EdgeServer, asyncio.Task[None]]] = {}
        self._refused: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Remove what instances of an earlier run left, then begin to look."""
        await asyncio.to_thread(_remove_strays, instances_folder(self._settings.home), self._instance_ids())
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop looking; the devices run on until the next start takes them over, or `python -m twin down`."""
        tasks = [task for _server, task in self._servers.values()]
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(
            *tasks,
            *(server.abandon_provisioning() for server, _task in self._servers.values()),
            return_exceptions=True,
        )

    def _instance_ids(self) -> set[str]:
        return {key[2] for key, instance in ec2._instances._data.items() if _state(instance) != "terminated"}

    async def _look(self) -> None:
        while True:
            try:
                self._start_new()
                await self._remove_gone()
            except Exception:
                logger.exception("edge servers could not be looked at; trying again")
            await asyncio.sleep(_LOOK_S)

    def _start_new(self) -> None:
        for (account, _region, instance_id), instance in list(ec2._instances._data.items()):
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
            server = EdgeServer(account, instance_id, profile_arn, edge, self._settings)
            self._servers[instance_id] = (server, asyncio.create_task(server.run()))

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


def _remove_strays(folder: Path, instance_ids: set[str]) -> None:
    for root in folder.glob("*") if folder.is_dir() else ():
        if root.name not in instance_ids:
            logger.warning("%s has no instance any more: ending its device, deleting its folder", root)
            end_edge_processes(root)
            shutil.rmtree(root, ignore_errors=True)


def install(settings: Settings) -> None:
    """Supervise with the cloud; the log is `log/edge_server.log`."""
    supervisor = Supervisor(settings)

    async def start() -> None:
        handler = logging.FileHandler(settings.home / "log" / "edge_server.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        await supervisor.start()

    register_background("edge servers", start=start, stop=supervisor.stop)
    simulated = SimulatedDevices(settings)
    register_background("devices", start=simulated.start, stop=simulated.stop)
