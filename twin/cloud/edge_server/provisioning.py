"""What the user data of an edge server does, by the same calls and with the instance's role: it is not run itself.

The settings that it exports are read, the instance is made a core device, and CloudFormation is told how that ended.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import boto3
import tenacity
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.cloud.settings import RoleCredentials, Settings
from twin.devices.identity import (
    CERTIFICATE,
    KEY,
    ROOT_CA,
    CloudNames,
    certificate_authority,
    certificate_request,
)
from twin.devices.nucleus_files import CONFIG_FILE, lite
from twin.files import write_whole

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
