"""Keeps the devices of `up --devices` running: one process for each folder with a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

import psutil
import yaml

from twin.cloud.edge_server.device_process import DeviceProcess
from twin.cloud.edge_server.provisioning import CONFIG_FILE
from twin.cloud.registry import Settings
from twin.edge_processes import DEVICE_VARIABLE, devices_folder, end_edge_processes
from twin.process import processes_where

logger = logging.getLogger("twin.edge_server")

_LOOK_S = 0.25
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 30.0
_STABLE_S = 60.0


class _Device:
    """One device: its process, and when it may be started again."""

    def __init__(self, root: Path) -> None:
        self.process = DeviceProcess(root)
        self.started_at = 0.0
        self.due_at = 0.0
        self.delay_s = _FIRST_DELAY_S

    def keep_running(self, thing: str) -> None:
        """Start the process if it does not run; the wait doubles with each early end."""
        now = time.monotonic()
        if self.process.alive or now < self.due_at:
            return
        if self.started_at:
            self.delay_s = _FIRST_DELAY_S if now - self.started_at > _STABLE_S else self.delay_s
            logger.warning("%s: core device %s; started again", thing, self.process.ending)
        self.process.start()
        self.started_at, self.due_at = now, now + self.delay_s
        self.delay_s = min(self.delay_s * 2, _LONGEST_DELAY_S)


class SimulatedDevices:
    """The devices of a state folder; they outlive a restart of the cloud, as edge servers do."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = devices_folder(settings.home)
        self._devices: dict[str, _Device] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take over what an earlier cloud process started, then keep looking."""
        await asyncio.to_thread(self._take_over)
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Stop looking; the devices run on until `python -m twin down`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _take_over(self) -> None:
        for path in self._folder.glob(f"*/{CONFIG_FILE}"):
            device = self._devices[path.parent.name] = _Device(path.parent)
            moved = self._point_at_proxy(path)
            if not _runs(path.parent):
                continue
            if moved:
                end_edge_processes(path.parent)
            else:
                device.process.adopt()

    def _point_at_proxy(self, path: Path) -> bool:
        """Write the proxy's present port into a configuration; returns whether it was another one."""
        url = f"http://127.0.0.1:{self._settings.proxy_port}"
        try:
            config = yaml.safe_load(path.read_text("utf-8"))
            proxy = config["services"]["aws.greengrass.NucleusLite"]["configuration"]["networkProxy"]["proxy"]
        except (OSError, yaml.YAMLError, KeyError, TypeError) as exc:
            logger.error("%s cannot be read: %r", path, exc)
            return False
        if proxy.get("url") == url:
            return False
        proxy["url"] = url
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
        temporary.replace(path)
        return True

    async def _look(self) -> None:
        while True:
            try:
                await self._keep()
            except Exception:
                logger.exception("the devices could not be looked at; trying again")
            await asyncio.sleep(_LOOK_S)

    async def _keep(self) -> None:
        wanted = {path.parent.name: path.parent for path in self._folder.glob(f"*/{CONFIG_FILE}")}
        for thing in [thing for thing in self._devices if thing not in wanted]:
            await asyncio.to_thread(self._devices.pop(thing).process.end)
        for thing, root in wanted.items():
            device = self._devices.setdefault(thing, _Device(root))
            with contextlib.suppress(psutil.NoSuchProcess):
                device.keep_running(thing)


def _runs(folder: Path) -> bool:
    return bool(processes_where(lambda environment: environment.get(DEVICE_VARIABLE) == str(folder)))
