"""Makes an instance a core device, by the calls of the user data script and with the instance's role."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import tenacity
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.cloud.edge_server.user_data import EdgeServerSettings
from twin.cloud.registry import RoleCredentials, Settings

_BOUNDED = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 2})
_LIMIT_S = 120.0
_CERTIFICATE, _KEY, _ROOT_CA, _ARN = "device.pem.crt", "private.pem.key", "root_ca.pem", "certificate.arn"

CONFIG_FILE = "config.yaml"


class ProvisioningError(Exception):
    """The instance could not be made a core device; the text says which call failed and how."""


def provision(
    root: Path,
    edge: EdgeServerSettings,
    settings: Settings,
    credentials: RoleCredentials,
    note: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> None:
    """Make certificate, attachments, membership and `config.yaml`; what is done is not done twice.

    Runs in a worker thread: it calls the gateway, which answers on the event loop. Each call is repeated for up to
    120 s, because the things and policies may come with a stack that is still being deployed.

    Args:
        root: The device's root folder; made if missing.
        edge: The settings of the user data.
        settings: Of the cloud.
        credentials: Of the instance profile's role.
        note: Told what happens.
        cancelled: Asked before each call; the instance may be terminated meanwhile.

    Raises:
        ProvisioningError: If a call goes on failing. A certificate that this run made is deleted again.
    """
    root.mkdir(parents=True, exist_ok=True)
    client_arguments = {"endpoint_url": settings.gateway_url, "region_name": edge.region, "config": _BOUNDED}
    iot = boto3.client("iot", **client_arguments, **credentials.client_arguments())

    def call(operation: str, **arguments: str | bool) -> Any:
        return _repeated(iot, operation, arguments, note, cancelled)

    data_endpoint = call("describe_endpoint", endpointType="iot:Data-ATS")["endpointAddress"]
    credential_endpoint = call("describe_endpoint", endpointType="iot:CredentialProvider")["endpointAddress"]
    _write(root / _ROOT_CA, _certificate_authority(settings))
    if not all((root / name).exists() for name in (_CERTIFICATE, _KEY, _ARN)):
        made = call("create_keys_and_certificate", setAsActive=True)
        try:
            call("attach_policy", policyName=edge.iot_policy, target=made["certificateArn"])
            call("attach_thing_principal", thingName=edge.thing_name, principal=made["certificateArn"])
        except ProvisioningError:
            _take_back(iot, edge, made)
            raise
        _write(root / _CERTIFICATE, made["certificatePem"])
        _write(root / _KEY, made["keyPair"]["PrivateKey"])
        _write(root / _ARN, made["certificateArn"] + "\n")
        note(f"certificate {made['certificateId'][:12]}… made and attached to {edge.thing_name}")
    call("add_thing_to_thing_group", thingName=edge.thing_name, thingGroupName=edge.thing_group)
    write_config(root, edge, settings, data_endpoint, credential_endpoint)


def write_config(
    root: Path, edge: EdgeServerSettings, settings: Settings, data_endpoint: str, credential_endpoint: str
) -> None:
    """Write `config.yaml` in the format of nucleus lite; AWS's host names are reached through the twin's proxy."""
    nucleus = {
        "awsRegion": edge.region,
        "iotCredEndpoint": credential_endpoint,
        "iotDataEndpoint": data_endpoint,
        "iotRoleAlias": edge.role_alias,
        "greengrassDataPlanePort": "8443",
        "networkProxy": {"proxy": {"url": f"http://127.0.0.1:{settings.proxy_port}"}},
    }
    config = {
        "system": {
            "privateKeyPath": str(root / _KEY),
            "certificateFilePath": str(root / _CERTIFICATE),
            "rootCaPath": str(root / _ROOT_CA),
            "rootPath": str(root),
            "thingName": edge.thing_name,
        },
        "services": {"aws.greengrass.NucleusLite": {"componentType": "NUCLEUS", "configuration": nucleus}},
    }
    _write(root / CONFIG_FILE, yaml.safe_dump(config, sort_keys=False))


def _repeated(
    iot: Any, operation: str, arguments: dict[str, Any], note: Callable[[str], None], cancelled: Callable[[], bool]
) -> Any:
    out_of_time = tenacity.stop_after_delay(_LIMIT_S)
    waiting = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((ClientError, BotoCoreError)),
        wait=tenacity.wait_exponential(0.2, max=5),
        stop=lambda state: cancelled() or out_of_time(state),
        before_sleep=lambda state: note(f"{operation} failed, trying again: {_error(state)}"),
        reraise=True,
    )
    if cancelled():
        raise ProvisioningError(f"{operation} was not called: the instance is being terminated")
    try:
        return waiting(getattr(iot, operation), **arguments)
    except (ClientError, BotoCoreError) as exc:
        raise ProvisioningError(f"{operation} must succeed within {_LIMIT_S:.0f} s, got: {exc}") from exc


def _error(state: tenacity.RetryCallState) -> str:
    return str(state.outcome.exception()) if state.outcome else ""


def _take_back(iot: Any, edge: EdgeServerSettings, made: dict[str, Any]) -> None:
    """Delete a certificate that no device will have; steps that were not reached fail and that is fine."""
    arn, identifier = made["certificateArn"], made["certificateId"]
    for operation, arguments in (
        ("detach_thing_principal", {"thingName": edge.thing_name, "principal": arn}),
        ("detach_policy", {"policyName": edge.iot_policy, "target": arn}),
        ("update_certificate", {"certificateId": identifier, "newStatus": "INACTIVE"}),
        ("delete_certificate", {"certificateId": identifier, "forceDelete": True}),
    ):
        with contextlib.suppress(ClientError, BotoCoreError):
            getattr(iot, operation)(**arguments)


def _certificate_authority(settings: Settings) -> str:
    try:
        with urllib.request.urlopen(f"{settings.gateway_url}/_ministack/iot/ca.pem", timeout=20) as answer:  # noqa: S310
            return str(answer.read().decode())
    except OSError as exc:
        raise ProvisioningError(f"the twin's certificate authority could not be read: {exc}") from exc


def _write(path: Path, content: str) -> None:
    """Write a file that only its owner can read, at once or not at all."""
    temporary = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        stream.write(content)
    temporary.replace(path)
