"""One edge server: provisions its core device, keeps it running, and removes it with its instance.

Its user data is not run: the settings that it exports are read, the same calls are made with the instance's role, and
CloudFormation is told how that ended.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
import tenacity
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from ministack.core.responses import request_scope
from ministack.services import iam

from twin.cloud.credentials import role_session
from twin.cloud.edge_server.device_process import DeviceProcess, KeptDevice
from twin.cloud_process import RoleCredentials, Settings
from twin.devices.identity import (
    CERTIFICATE,
    CONFIG_FILE,
    KEY,
    ROOT_CA,
    CloudNames,
    certificate_authority,
    certificate_request,
    lite,
    points_at,
)
from twin.files import write_whole
from twin.process import instances_folder
from twin.status import STATUS_FILE, EdgeServerStatus

logger = logging.getLogger("twin.edge_server")

_BOUNDED = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 2})
_LIMIT_S = 120.0
_SIGNAL_LIMIT_S = 10.0
JOINED = "joined.json"
"""What the join function answered, in the root folder."""
_EXPORT = re.compile(r"^export EDGEWRIGHT_([A-Z_0-9]+)='?([^'\n]*)'?\s*$", re.MULTILINE)


class UserDataError(ValueError):
    """User data that is an edge server's, but not usable."""


@dataclass(frozen=True)
class EdgeServerSettings:
    """What makes an instance a core device: names in its account."""

    region: str
    thing_name: str
    join_function: str
    role_alias: str
    stage: str
    signal_url: str = ""


def parse(user_data: str) -> EdgeServerSettings | None:
    """Read the settings; the script after them is not run.

    Args:
        user_data: As in RunInstances: base64, or plain text.

    Returns:
        The settings, or None if the user data exports nothing with the prefix `EDGEWRIGHT_`.

    Raises:
        UserDataError: If some settings are there and others missing or empty.
    """
    exports = dict(_EXPORT.findall(_decoded(user_data)))
    if not exports:
        return None
    names = ("REGION", "THING_NAME", "JOIN_FUNCTION", "ROLE_ALIAS", "STAGE")
    missing = [f"EDGEWRIGHT_{name}" for name in names if not exports.get(name)]
    if missing:
        raise UserDataError(f"user data must export {', '.join(missing)}, got nothing for it")
    return EdgeServerSettings(
        **{name.lower(): exports[name] for name in names}, signal_url=exports.get("SIGNAL_URL", "")
    )


def _decoded(user_data: str) -> str:
    try:
        return base64.b64decode(user_data, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return user_data


class _RefusedError(Exception):
    """The join function does not let the server join; the text is the function's own."""


class ProvisioningError(Exception):
    """The instance could not be made a core device; the text says which call failed and how."""


def provision(
    root: Path,
    edge: EdgeServerSettings,
    settings: Settings,
    credentials: RoleCredentials,
    dialect: str,
    note: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> None:
    """Ask the join function for a certificate and write `config.yaml`; what is done is not done twice.

    Runs in a worker thread: it calls the gateway, which answers on the event loop. Each call is repeated for up to
    120 s, because the things and policies may come with a stack that is still being deployed.

    Args:
        root: The device's root folder; made if missing.
        edge: The settings of the user data.
        settings: Of the cloud.
        credentials: Of the instance profile's role.
        dialect: `lite` or `classic`: whose limits and quirks the device has.
        note: Told what happens.
        cancelled: Asked before each call; the instance may be terminated meanwhile.

    Raises:
        ProvisioningError: If the function goes on refusing.
    """
    root.mkdir(parents=True, exist_ok=True)
    functions = boto3.client("lambda", config=_BOUNDED, **settings.client_arguments(edge.region, credentials))
    try:
        write_whole(root / ROOT_CA, certificate_authority(settings.gateway_url), private=True)
    except OSError as exc:
        raise ProvisioningError(f"the twin's certificate authority could not be read: {exc}") from exc
    if not all((root / name).exists() for name in (CERTIFICATE, KEY, JOINED)):
        key, csr = certificate_request(edge.thing_name)
        answer = _asked(functions, edge.join_function, {"csr": csr}, note, cancelled)
        kept = ((CERTIFICATE, answer["certificatePem"]), (KEY, key), (JOINED, json.dumps(answer)))
        for name, text in kept:
            write_whole(root / name, text, private=True)
        note(f"certificate {answer['certificateId'][:12]}… for {edge.thing_name}")
    joined = json.loads((root / JOINED).read_text(encoding="utf-8"))
    names = CloudNames(
        edge.thing_name, edge.region, joined["dataEndpoint"], joined["credentialEndpoint"], edge.role_alias
    )
    config = lite(names, settings.proxy_port, root=str(root), credentials=str(root), dialect=dialect)
    write_whole(root / CONFIG_FILE, config, private=True)


def _asked(
    functions: Any, name: str, request: dict[str, str], note: Callable[[str], None], cancelled: Callable[[], bool]
) -> dict[str, str]:
    out_of_time = tenacity.stop_after_delay(_LIMIT_S)
    waiting = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((ClientError, BotoCoreError, _RefusedError)),
        wait=tenacity.wait_exponential(0.2, max=5),
        stop=lambda state: cancelled() or out_of_time(state),
        before_sleep=lambda state: note(f"{name} failed, asking again: {_error(state)}"),
        reraise=True,
    )
    if cancelled():
        raise ProvisioningError(f"{name} was not asked: the instance is being terminated")

    def ask() -> dict[str, str]:
        answer = functions.invoke(FunctionName=name, Payload=json.dumps(request))
        content: dict[str, str] = json.loads(answer["Payload"].read())
        if answer.get("FunctionError"):
            raise _RefusedError(content.get("errorMessage", "no reason given"))
        return content

    try:
        return waiting(ask)
    except (ClientError, BotoCoreError, _RefusedError) as exc:
        raise ProvisioningError(f"{name} must answer within {_LIMIT_S:.0f} s, got: {exc}") from exc


def _error(state: tenacity.RetryCallState) -> str:
    return str(state.outcome.exception()) if state.outcome else ""


def send_outcome(url: str, thing_name: str, reason: str, cancelled: Callable[[], bool], *, success: bool) -> None:
    """Send the outcome until it is heard, for up to 120 s; then CloudFormation waits until its time is over.

    Args:
        url: Of the wait condition's handle; nothing is sent without one.
        thing_name: Names the sender.
        reason: Shown in the stack's events.
        cancelled: Asked before it is sent again.
        success: Whether the instance is a core device.
    """
    if not url.startswith("http://127.0.0.1:"):
        return
    signal = {"Status": "SUCCESS" if success else "FAILURE", "Reason": reason, "UniqueId": thing_name, "Data": ""}
    body = json.dumps(signal).encode()
    request = urllib.request.Request(url, body, {"Content-Type": ""}, method="PUT")  # noqa: S310 (checked above)
    out_of_time = tenacity.stop_after_delay(_LIMIT_S)
    waiting = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_unheard),
        wait=tenacity.wait_exponential(0.2, max=2),
        stop=lambda state: cancelled() or out_of_time(state),
        reraise=True,
    )
    try:
        waiting(lambda: urllib.request.urlopen(request, timeout=_SIGNAL_LIMIT_S).close())  # noqa: S310 (checked above)
    except OSError as exc:
        logger.warning("the outcome of %s could not be sent to CloudFormation: %s", thing_name, exc)


def _is_unheard(error: BaseException) -> bool:
    # A condition of a stack that is over, say, is refused for good.
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, OSError)


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
