"""Temporary credentials of a role, as a service principal of AWS gets them.

And role aliases, by which a certificate takes the credentials of a role: their calls, their type, the endpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from ministack.core import iam_evaluator
from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope
from ministack.services import iam, sts

from twin.clock import CLOCK
from twin.cloud.aws.protocol import ServiceError, error_response, json_response
from twin.cloud.iot.listener import DeviceIdentity, HttpError, RequestHead
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_store, register_type
from twin.cloud_process import RoleCredentials, Settings

_EVICT_S = 60.0
_evicted: list[float] = []


@patch(
    "services.sts._evict_expired_sessions",
    why="sessions past their end are dropped once a minute: MiniStack looks through those of all devices at each one",
    signature="()",
)
def _evict(evict: Callable[[], None]) -> None:
    now = time.monotonic()
    if not _evicted or now - _evicted[0] >= _EVICT_S:
        _evicted[:] = [now]
        evict()


def role_session(
    role_arn: str,
    session_name: str,
    service_principal: str,
    seconds: int = 3600,
    *,
    source_arn: str | None = None,
    keys: Mapping[str, str] | None = None,
) -> RoleCredentials:
    """Assume a role for an AWS service, as that service does on AWS.

    The role has to exist and its trust policy has to allow the service, with and without AUTH=true: a trust policy
    that would fail a real deploy fails here as well.

    Args:
        role_arn: ARN of a role of the request's account.
        session_name: Shows in the caller's ARN, `…:assumed-role/<role>/<session name>`.
        service_principal: For instance `credentials.iot.amazonaws.com`.
        seconds: Life of the credentials.
        source_arn: For whose sake the service asks: what the trust policy's `aws:SourceArn` is compared with.
        keys: Condition keys of the session, which its role's policies may name, in lower case.

    Returns:
        Credentials that the gateway accepts.

    Raises:
        PermissionError: If there is no such role, or its trust policy does not allow the service.
    """
    name = role_arn.rsplit("/", 1)[-1]
    role = iam._roles.get(name)
    if role is None:
        raise PermissionError(f"role must exist to be assumed by {service_principal}, got {role_arn}: create it first")
    if not _trusts(role.get("AssumeRolePolicyDocument"), service_principal, source_arn):
        raise PermissionError(
            f"trust policy of {name} must allow sts:AssumeRole to {service_principal}, for {source_arn or 'this one'}"
            ": add the service to the role's AssumeRolePolicyDocument, or correct its Condition"
        )
    expiration = time.time() + seconds
    credentials = RoleCredentials(
        "ASIA" + secrets.token_hex(8).upper(),
        secrets.token_hex(20),
        secrets.token_hex(32),
        datetime.fromtimestamp(expiration, UTC),
    )
    account = get_account_id()
    sts.register_session(
        credentials.access_key_id,
        {
            "Arn": f"arn:aws:sts::{account}:assumed-role/{name}/{session_name}",
            "UserId": f"{role.get('RoleId', name)}:{session_name}",
            "SecretAccessKey": credentials.secret_access_key,
            "SessionToken": credentials.session_token,
            "Expiration": expiration,
            "AccountId": account,
            _KEYS: dict(keys or {}),
        },
    )
    return credentials


_KEYS = "TwinConditionKeys"


@patch(
    "core.iam_evaluator._principal_keys",
    "services.sts._principal_keys",
    why="the credential provider's sessions have the name of their thing, which policies may name",
    signature="(credential)",
)
def _principal_keys(by_ministack: Callable[..., dict[str, Any]], credential: Any) -> dict[str, Any]:
    session = sts._sessions.get(credential.access_key_id) or {}
    return {**by_ministack(credential), **session.get(_KEYS, {})}


_functions: dict[str, tuple[str, str]] = {}


@patch(
    "core.lambda_runtime.execution_credentials",
    "services.lambda_svc.execution_credentials",
    why="a function has its role's session, also where no policies are evaluated, and a secret that nobody can compute "
    "from the function's name",
    signature="(config)",
)
def _function_credentials(_by_ministack: Callable[..., dict[str, str]], config: dict[str, Any]) -> dict[str, str]:
    """One session a function and role, for as long as the cloud runs: a kept process keeps its credentials."""
    function, role = str(config.get("FunctionArn", "")), str(config.get("Role", ""))
    account, name = function.split(":")[4], role.rsplit("/", 1)[-1]
    key = "ASIA" + hashlib.sha256(f"{function}:{role}".encode()).hexdigest()[:16].upper()
    secret, token = _functions.setdefault(key, (secrets.token_hex(20), secrets.token_hex(32)))
    session_name = str(config.get("FunctionName", "function"))[:64]
    sts.register_session(
        key,
        {
            "Arn": f"arn:aws:sts::{account}:assumed-role/{name}/{session_name}",
            "UserId": f"{name}:{session_name}",
            "SecretAccessKey": secret,
            "SessionToken": token,
            "AccountId": account,
        },
    )
    return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}


def _trusts(policy: str | dict[str, Any] | None, service_principal: str, source_arn: str | None = None) -> bool:
    document = json.loads(policy) if isinstance(policy, str) and policy else policy or {}
    statements = document.get("Statement", []) if isinstance(document, dict) else []
    account = get_account_id()
    asked = iam_evaluator.EvalContext(
        principal_arn=service_principal,
        principal_type="Service",
        principal_account=account,
        action="sts:AssumeRole",
        resource_arn="*",
        region=get_region(),
        service_context={"aws:sourceaccount": account, "aws:sourcearn": source_arn},
    )
    allowed = False
    for statement in [statements] if isinstance(statements, dict) else statements:
        principal = statement.get("Principal", {})
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        actions = statement.get("Action", [])
        named = service_principal in ([services] if isinstance(services, str) else services)
        assumes = any(
            action in ("*", "sts:*", "sts:AssumeRole")
            for action in ([actions] if isinstance(actions, str) else actions)
        )
        if named and assumes and iam_evaluator._conditions_met(statement.get("Condition") or {}, asked):
            if statement.get("Effect") == "Deny":
                return False
            allowed = True
    return allowed


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
