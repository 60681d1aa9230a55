"""One edge server: provisions its core device, keeps it running, and removes it with its instance."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from dataclasses import asdict

from ministack.core.responses import request_scope
from ministack.services import iam

from twin.cloud.credentials import role_session
from twin.cloud.edge_server.device_process import DeviceProcess, KeptDevice
from twin.cloud.edge_server.provisioning import EdgeServerSettings, ProvisioningError, provision, send_outcome
from twin.cloud.settings import RoleCredentials, Settings
from twin.devices.nucleus_files import CONFIG_FILE, points_at
from twin.edge_processes import instances_folder
from twin.files import write_whole
from twin.status import STATUS_FILE, EdgeServerStatus

logger = logging.getLogger("twin.edge_server")

_WATCH_S = 0.25


class EdgeServer:
    """The edge server of one instance; `run` is its life, `remove` its end."""

    def __init__(
        self,
        account: str,
        instance_id: str,
        profile_arn: str,
        edge: EdgeServerSettings,
        settings: Settings,
        dialect: str = "lite",
    ) -> None:
        self.instance_id = instance_id
        self.dialect = dialect
        self._account = account
        self._profile_arn = profile_arn
        self._edge = edge
        self._settings = settings
        self._root = instances_folder(settings.home) / instance_id
        self._device = KeptDevice(DeviceProcess(self._root))
        self._signal_url = edge.signal_url
        self._cancelled = False
        self._provisioning: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Provision, then keep the device running until cancelled; a failure is logged and ends it."""
        # A task of its own: cancelling this one would leave its thread writing into a folder that is being deleted.
        self._provisioning = asyncio.create_task(asyncio.to_thread(self._provision))
        try:
            await asyncio.shield(self._provisioning)
        except Exception as exc:
            if not isinstance(exc, ProvisioningError | OSError | ValueError):
                logger.exception("%s could not be made a core device", self.instance_id)
            self._note("failed", f"could not be made a core device: {exc}", logging.ERROR)
            await self._signal(f"could not be made a core device: {exc}", success=False)
            return
        if self._cancelled:
            return
        if await asyncio.to_thread(self._device.adopt):
            self._note("running", "core device of an earlier start taken over")
        while True:
            if news := self._device.look():
                self._note(*news, logging.WARNING if news[0] == "restarting" else logging.INFO)
                if news[0] == "running" and self._signal_url:
                    # Beside the watch: the device may end while it is told.
                    self._telling = asyncio.create_task(
                        self._signal(f"{self._edge.thing_name} is a core device", success=True)
                    )
            await asyncio.sleep(_WATCH_S)

    async def abandon_provisioning(self) -> None:
        """Make no further call, and wait for the one under way; each call is bounded."""
        self._cancelled = True
        under_way = [task for task in (self._provisioning, self._telling) if task is not None]
        await asyncio.gather(*under_way, return_exceptions=True)

    async def remove(self, *, keep_files: bool) -> None:
        """End the device and its components, within 20 s, and delete the root folder.

        Args:
            keep_files: Of an instance that is only stopped.
        """
        await self.abandon_provisioning()
        self._note("stopping", "instance stopped" if keep_files else "instance terminated")
        await asyncio.to_thread(self._device.process.end)
        if not keep_files:
            await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    async def _signal(self, reason: str, *, success: bool) -> None:
        """Send the outcome once in the life of this object; later starts change nothing for CloudFormation."""
        url, self._signal_url = self._signal_url, ""
        cancelled = lambda: self._cancelled  # noqa: E731
        await asyncio.to_thread(send_outcome, url, self._edge.thing_name, reason, cancelled, success=success)

    def _provision(self) -> None:
        if points_at(self._root / CONFIG_FILE, self._settings.proxy_port, self.dialect):
            return
        # A device with a configuration of other ports cannot reach the cloud; one of another dialect is begun anew.
        self._device.process.end()
        self._note("provisioning", f"making {self._edge.thing_name} a core device")
        provision(
            self._root,
            self._edge,
            self._settings,
            self._credentials(),
            self.dialect,
            lambda text: self._note("provisioning", text),
            lambda: self._cancelled,
        )

    def _credentials(self) -> RoleCredentials:
        with request_scope(self._account, self._settings.region):
            profile = iam._lookup_instance_profile(arn=self._profile_arn)
            roles = [_role_name(role) for role in (profile or {}).get("Roles", [])]
            if not roles:
                raise PermissionError(
                    f"the instance profile must hold a role, got none in {self._profile_arn or 'none'}"
                )
            role = iam._roles.get(roles[0])
            if role is None:
                raise PermissionError(f"the role of the instance profile must exist, got {roles[0]}")
            return role_session(role["Arn"], self.instance_id, "ec2.amazonaws.com", 21_600)

    def _note(self, phase: str, event: str, level: int = logging.INFO) -> None:
        logger.log(level, "%s %s: %s", self.instance_id, self._edge.thing_name, event)
        status = EdgeServerStatus(
            self.instance_id, self._edge.thing_name, phase, self._device.process.pid, event, round(time.time(), 3)
        )
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            write_whole(self._root / STATUS_FILE, json.dumps(asdict(status)) + "\n")
        except OSError:
            logger.exception("status of %s cannot be written", self.instance_id)


def _role_name(role: str | dict[str, str]) -> str:
    return role if isinstance(role, str) else role["RoleName"]
