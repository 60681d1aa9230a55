"""Temporary credentials of a role, as a service principal of AWS gets them."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.services import iam, sts

from twin.cloud.ministack.patches import patch
from twin.cloud_process import RoleCredentials


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
