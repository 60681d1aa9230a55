"""Role aliases: the names by which a certificate takes the credentials of a role."""

from __future__ import annotations

import json
import re
import time
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region
from ministack.services import iot

from twin.cloud.registry import register_store, register_type

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
    now = time.time()
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


def install() -> None:
    """Serve the role alias calls of IoT and the type AWS::IoT::RoleAlias."""
    register_store("iot_role_aliases", ROLE_ALIASES)
    register_type("AWS::IoT::RoleAlias", create=_create, update=_update, delete=_delete, replacing=("RoleAlias",))
    route_by_ministack = iot._route_request

    async def route_request(
        method: str, path: str, headers: dict[str, str], body: bytes, query_params: dict[str, Any]
    ) -> Any:
        if match := _PATH.fullmatch(unquote(path)):
            return _answer(method, match[1], body)
        return await route_by_ministack(method, path, headers, body, query_params)

    iot._route_request = route_request


def _answer(method: str, alias: str | None, body: bytes) -> Any:
    if alias is None:
        return _json(200, {"roleAliases": sorted(ROLE_ALIASES.keys())})
    exists = alias in ROLE_ALIASES
    if method == "POST" and exists:
        return _error(409, "ResourceAlreadyExistsException", f"role alias {alias} already exists")
    if method != "POST" and not exists:
        return _error(404, "ResourceNotFoundException", f"role alias must exist, got {alias}")
    match method:
        case "GET":
            return _json(200, {"roleAliasDescription": ROLE_ALIASES[alias]})
        case "DELETE":
            del ROLE_ALIASES[alias]
            return _json(200, {})
        case "POST" | "PUT":
            try:
                request = json.loads(body or b"{}")
                record = put(alias, request.get("roleArn"), request.get("credentialDurationSeconds"))
            except (ValueError, TypeError, AttributeError) as error:
                return _error(400, "InvalidRequestException", str(error))
            return _json(200, {key: record[key] for key in ("roleAlias", "roleAliasArn")})
    return _error(400, "InvalidRequestException", f"{method} is no operation of a role alias")


def _json(status: int, document: dict[str, Any]) -> Any:
    return status, {"Content-Type": "application/json"}, json.dumps(document).encode()


def _error(status: int, code: str, message: str) -> Any:
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": code}
    return status, headers, json.dumps({"__type": code, "message": message}).encode()


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
