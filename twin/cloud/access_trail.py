"""With AUTH=true: writes down who was allowed or denied what, each distinct request once.

The trail is what tells a permission that something needs from one that nothing needs (tools/least_privilege.py).
"""

from __future__ import annotations

import contextvars
import json
from pathlib import Path
from typing import Any

from ministack import app
from ministack.core import iam_evaluator
from ministack.services import iot

from twin.cloud.registry import Settings

FILE = "access.jsonl"
CERTIFICATE = "Certificate"

#: Set while a request's identity policies are the next to be evaluated; resource policies come after them.
_identity_next: contextvars.ContextVar[bool] = contextvars.ContextVar("identity_next", default=False)
#: Set while a provisioning role is asked for, one evaluation a right.
_provisioning: contextvars.ContextVar[bool] = contextvars.ContextVar("provisioning", default=False)


class AccessTrail:
    """One JSON object a line: principal, action, resource, region, context, allowed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def note(self, context: Any, allowed: bool) -> None:
        """Write a request down, unless the same one was before."""
        line = json.dumps(
            {
                "principal": principal_of(context),
                "type": context.principal_type,
                "account": context.principal_account,
                "action": context.action,
                "resource": context.resource_arn,
                "region": context.region,
                "context": {key: value for key, value in context.service_context.items() if value is not None},
                "allowed": allowed,
            },
            sort_keys=True,
            default=str,
        )
        if line not in self._seen:
            self._seen.add(line)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def principal_of(context: Any) -> str:
    """Name of the role, or `Certificate` for a device: certificates come and go, their policies are the same."""
    if context.principal_type == CERTIFICATE:
        return CERTIFICATE
    return iam_evaluator._role_name_from_assumed_arn(context.principal_arn) or str(context.principal_arn)


def install(settings: Settings) -> None:
    """Note every evaluation of an identity policy, if policies are evaluated at all."""
    if not app.AUTH:
        return
    folder = settings.home / "log"
    folder.mkdir(parents=True, exist_ok=True)
    trail = AccessTrail(folder / FILE)
    evaluate, enforce = iam_evaluator.evaluate, iam_evaluator.enforce

    def noting_evaluate(context: Any, policies: Any, *limits: Any) -> Any:
        result = evaluate(context, policies, *limits)
        if context.principal_type == CERTIFICATE or _identity_next.get() or _provisioning.get():
            _identity_next.set(False)
            trail.note(context, result.decision == "Allow")
        return result

    def noting_enforce(*arguments: Any, **named: Any) -> Any:
        token = _identity_next.set(True)
        try:
            return enforce(*arguments, **named)
        finally:
            _identity_next.reset(token)

    provisioning_role_allows = iot._provisioning_role_allows

    def noting_provisioning(role_arn: str, requests: Any) -> bool:
        token = _provisioning.set(True)
        try:
            return bool(provisioning_role_allows(role_arn, requests))
        finally:
            _provisioning.reset(token)

    iot._provisioning_role_allows = noting_provisioning
    iam_evaluator.evaluate = noting_evaluate
    iam_evaluator.enforce = noting_enforce
    iot.evaluate = noting_evaluate
