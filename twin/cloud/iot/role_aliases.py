"""Role aliases, by which a certificate takes the credentials of a role: their calls, their type, the endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope

from twin.clock import CLOCK
from twin.cloud.aws.protocol import ServiceError, error_response, json_response
from twin.cloud.credentials import role_session
from twin.cloud.iot.listener import DeviceIdentity, HttpError, RequestHead
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_store, register_type
from twin.cloud_process import Settings

Record = dict[str, Any]

ROLE_ALIASES: AccountRegionScopedDict = AccountRegionScopedDict()
"""Alias → the members of DescribeRoleAlias; times in seconds."""

DEFAULT_SECONDS = 3600
SECONDS = range(900, 43_201)
"""Life of the credentials that CreateRoleAlias takes (IoT API reference)."""

_ALIAS = re.compile(r"[\w=,@-]{1,128}", re.ASCII)
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")
_PATH = re.compile(r"/role-aliases(?:/([^/]+))?")


def put(alias: str, role_arn: Any, seconds: Any = None) -> Record:
    """Make a role alias or change it.

    Args:
        alias: 1 to 128 letters, digits, `_=,@-`.
        role_arn: Of the role, which need not exist yet.
        seconds: Life of the credentials, 900 to 43200; 3600 for a new alias if not given.

    Raises:
        ValueError: If one of them breaks its rule.
    """
    before = ROLE_ALIASES.get(alias) or {}
    role_arn = role_arn or before.get("roleArn")
    seconds = int(seconds or before.get("credentialDurationSeconds") or DEFAULT_SECONDS)
    if not _ALIAS.fullmatch(alias):
        raise ValueError(f"roleAlias must be 1 to 128 letters, digits or any of _=,@-, got {alias!r}")
    if not isinstance(role_arn, str) or not _ROLE_ARN.fullmatch(role_arn):
        raise ValueError(f"roleArn must be the ARN of a role, got {role_arn!r}")
    if seconds not in SECONDS:
        raise ValueError(f"credentialDurationSeconds must be from 900 to 43200, got {seconds}")
    now = CLOCK.time()
    ROLE_ALIASES[alias] = record = {
        "roleAlias": alias,
        "roleAliasArn": f"arn:aws:iot:{get_region()}:{get_account_id()}:rolealias/{alias}",
        "roleArn": role_arn,
        "owner": get_account_id(),
        "credentialDurationSeconds": seconds,
        "creationDate": before.get("creationDate", now),
        "lastModifiedDate": now,
    }
    return record


@patch(
    "services.iot._route_request",
    why="the role alias calls of IoT are served",
    signature="async (method, path, headers, body, query_params)",
)
async def _route_request(
    route: Callable[..., Awaitable[Any]],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query_params: dict[str, Any],
) -> Any:
    if match := _PATH.fullmatch(unquote(path)):
        try:
            return json_response(200, _answer(method, match[1], body))
        except ServiceError as error:
            return error_response(error)
    return await route(method, path, headers, body, query_params)


def _answer(method: str, alias: str | None, body: bytes) -> dict[str, Any]:
    if alias is None:
        return {"roleAliases": sorted(ROLE_ALIASES.keys())}
    exists = alias in ROLE_ALIASES
    if method == "POST" and exists:
        raise ServiceError(f"role alias {alias} already exists", code="ResourceAlreadyExistsException", status=409)
    if method != "POST" and not exists:
        raise ServiceError(f"role alias must exist, got {alias}", code="ResourceNotFoundException", status=404)
    match method:
        case "GET":
            return {"roleAliasDescription": ROLE_ALIASES[alias]}
        case "DELETE":
            del ROLE_ALIASES[alias]
            return {}
        case "POST" | "PUT":
            try:
                request = json.loads(body or b"{}")
                record = put(alias, request.get("roleArn"), request.get("credentialDurationSeconds"))
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise ServiceError(str(error), code="InvalidRequestException", status=400) from error
            return {key: record[key] for key in ("roleAlias", "roleAliasArn")}
    raise ServiceError(f"{method} is no operation of a role alias", code="InvalidRequestException", status=400)


def _create(logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
    alias = properties.get("RoleAlias") or f"{stack}-{logical_id}"
    if alias in ROLE_ALIASES:
        raise ValueError(f"AlreadyExists: role alias {alias} already exists")
    record = put(alias, properties.get("RoleArn"), properties.get("CredentialDurationSeconds"))
    return alias, {"RoleAliasArn": record["roleAliasArn"]}


def _update(physical_id: str, _old: dict[str, Any], new: dict[str, Any], _stack: str) -> tuple[str, dict[str, Any]]:
    record = put(physical_id, new.get("RoleArn"), new.get("CredentialDurationSeconds") or DEFAULT_SECONDS)
    return physical_id, {"RoleAliasArn": record["roleAliasArn"]}


def _delete(physical_id: str, _properties: dict[str, Any]) -> None:
    ROLE_ALIASES.pop(physical_id, None)


SERVICE_PRINCIPAL = "credentials.iot.amazonaws.com"

_CREDENTIALS = re.compile(r"/role-aliases/([\w=,@-]{1,128})/credentials", re.ASCII)


def credentials(identity: DeviceIdentity | None, head: RequestHead) -> dict[str, Any]:
    """Answer `GET /role-aliases/<alias>/credentials`.

    Args:
        identity: Of the client certificate; None if it sent none that is active.
        head: The request; its header `x-amzn-iot-thingname` names a thing that the certificate has to be attached to.

    Returns:
        `{"credentials": {accessKeyId, secretAccessKey, sessionToken, expiration}}`, the expiration in UTC with `Z`.

    Raises:
        HttpError: 403 for a certificate that may not, 404 for an unknown alias, 400 or 405 for another request.
    """
    match = _CREDENTIALS.fullmatch(head.target)
    if match is None:
        raise HttpError(400, f"target must be /role-aliases/<role alias>/credentials, got {head.target[:200]}")
    if head.method != "GET":
        raise HttpError(405, f"method must be GET, got {head.method[:20]}")
    if identity is None:
        raise HttpError(403, "Access Denied: an active device certificate must be presented")
    thing = head.headers.get("x-amzn-iot-thingname")
    things = identity.things()
    if thing is not None and thing not in things:
        raise HttpError(403, f"Access Denied: certificate must be attached to thing {thing[:128]}")
    with request_scope(identity.account, identity.region):
        alias = ROLE_ALIASES.get(match[1])
        if alias is None:
            raise HttpError(404, f"role alias must exist, got {match[1]}")
        if not identity.allows("iot:AssumeRoleWithCertificate", alias["roleAliasArn"]):
            raise HttpError(403, f"Access Denied: an IoT policy must allow iot:AssumeRoleWithCertificate on {match[1]}")
        try:
            taken = role_session(
                alias["roleArn"],
                identity.certificate_id,
                SERVICE_PRINCIPAL,
                alias["credentialDurationSeconds"],
                source_arn=alias["roleAliasArn"],
                # As AWS: the thing's name only where the request has it (developer guide, "Authorizing direct calls").
                keys={
                    "credentials-iot:awscertificateid": identity.certificate_id,
                    **({"credentials-iot:thingname": thing} if thing else {}),
                },
            )
        except PermissionError as error:
            raise HttpError(403, f"Access Denied: {error}") from error
    return {
        "credentials": {
            "accessKeyId": taken.access_key_id,
            "secretAccessKey": taken.secret_access_key,
            "sessionToken": taken.session_token,
            "expiration": taken.expiration.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    }


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Keep the aliases, and register the type AWS::IoT::RoleAlias."""
    register_store("iot_role_aliases", ROLE_ALIASES)
    register_type("AWS::IoT::RoleAlias", create=_create, update=_update, delete=_delete, replacing=("RoleAlias",))
