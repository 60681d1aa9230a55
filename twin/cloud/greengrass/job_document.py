"""The document of the IoT job by which a deployment reaches its devices."""

from __future__ import annotations

import json
from typing import Any

from twin.cloud.greengrass.service_error import InvalidRequestError, Mistake

THING_LIMIT_BYTES = 7 * 1024
GROUP_LIMIT_BYTES = 31 * 1024
"""Quotas of a deployment document (AWS general reference, Greengrass V2 quotas)."""


def job_document(deployment: dict[str, Any]) -> str:
    """The compact JSON that nucleus reads, as it was seen on the wire.

    Args:
        deployment: A deployment's record.

    Returns:
        The document; `creationTimestamp` in milliseconds, `merge` as an object.

    Raises:
        InvalidRequestError: If a `merge` is no JSON object, or the document is larger than its target allows.
    """
    mistakes: list[Mistake] = []
    policies = deployment["deploymentPolicies"]
    update, validation = policies["componentUpdatePolicy"], policies["configurationValidationPolicy"]
    document = {
        "deploymentId": deployment["deploymentId"],
        **({"deploymentName": deployment["deploymentName"]} if deployment.get("deploymentName") else {}),
        "configurationArn": deployment["configurationArn"],
        "creationTimestamp": int(deployment["creationTimestamp"] * 1000),
        "components": {
            name: _component(name, component, mistakes) for name, component in deployment["components"].items()
        },
        "failureHandlingPolicy": policies["failureHandlingPolicy"],
        "componentUpdatePolicy": {"timeout": update["timeoutInSeconds"], "action": update["action"]},
        "configurationValidationPolicy": {"timeout": validation["timeoutInSeconds"]},
    }
    text = json.dumps(document, separators=(",", ":"))
    limit = GROUP_LIMIT_BYTES if ":thinggroup/" in deployment["targetArn"] else THING_LIMIT_BYTES
    if len(text.encode()) > limit:
        mistakes.append(("components", f"must make a document of at most {limit} bytes, got {len(text.encode())}"))
    if mistakes:
        raise InvalidRequestError(mistakes)
    return text


def _component(name: str, component: dict[str, Any], mistakes: list[Mistake]) -> dict[str, Any]:
    entry: dict[str, Any] = {"version": component["componentVersion"]}
    update = component.get("configurationUpdate") or {}
    merged = _merge(name, update.get("merge"), mistakes)
    configuration = {"merge": merged} if merged is not None else {}
    if update.get("reset"):
        configuration["reset"] = update["reset"]
    if configuration:
        entry["configurationUpdate"] = configuration
    if run_with := _run_with(component.get("runWith") or {}):
        entry["runWith"] = run_with
    return entry


def _merge(name: str, text: str | None, mistakes: list[Mistake]) -> Any:
    if not text:
        return None
    try:
        merged = json.loads(text)
    except (ValueError, RecursionError):
        merged = text
    if not isinstance(merged, dict):
        mistakes.append((f"components.{name}.configurationUpdate.merge", f"must be a JSON object, got {text[:80]!r}"))
    return merged


def _run_with(run_with: dict[str, Any]) -> dict[str, Any]:
    entry = {key: run_with[key] for key in ("posixUser", "windowsUser") if run_with.get(key)}
    limits = run_with.get("systemResourceLimits") or {}
    linux = {wire: limits[name] for name, wire in (("memory", "memory"), ("cpus", "cpu")) if name in limits}
    return {**entry, "systemResourceLimits": {"linux": linux}} if linux else entry
