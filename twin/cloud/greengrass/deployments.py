"""Deployments: revisions of what a target runs, each carried to the devices by an IoT job; their API."""

from __future__ import annotations

import json
import re
import uuid
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region
from ministack.services import iot

from config.public_components import PUBLIC_COMPONENTS
from twin.clock import CLOCK
from twin.cloud.aws.protocol import (
    Answer,
    Call,
    ConflictError,
    InvalidRequestError,
    Mistake,
    NotFoundError,
    Route,
    find,
    page,
)
from twin.cloud.aws.shapes import read_request
from twin.cloud.greengrass.components import SERVICE
from twin.cloud.greengrass.recipe import Version, name_problem

Record = dict[str, Any]

NAMESPACE = "aws-gg-deployment"
"""The IoT jobs namespace that nucleus listens to."""

DEPLOYMENTS: AccountRegionScopedDict = AccountRegionScopedDict()
"""Deployment id → record: the members of GetDeployment, and `configurationArn`."""

REVISIONS: AccountRegionScopedDict = AccountRegionScopedDict()
"""Target ARN → its last revision number; it goes on counting when deployments are deleted."""

_TARGET = re.compile(r"arn:aws[a-z-]*:iot:[^:]+:\d+:(thing|thinggroup)/(.+)")


async def create_deployment(request: dict[str, Any]) -> Record:
    """Make the target's next revision; the job of the revision before is cancelled, running executions included.

    Raises:
        InvalidRequestError: If a component's version or configuration is malformed, or IoT refuses the job.
        NotFoundError: If the target does not exist.
    """
    if repeated := _repeated(request.get("clientToken")):
        return repeated
    target = request["targetArn"]
    match = _TARGET.fullmatch(target)
    if match is None:
        raise InvalidRequestError([("targetArn", f"must be the ARN of a thing or thing group, got {target!r}")])
    if iot._job_target_resolve(target) is None:
        raise NotFoundError("deployment target", target)
    _check_versions(request.get("components") or {})
    record = _record(request, target, f"{match[1]}/{match[2]}")
    document = job_document(record)
    REVISIONS[target] = int(record["revisionId"])
    await _create_job(record, document, "CONTINUOUS" if match[1] == "thinggroup" else "SNAPSHOT")
    DEPLOYMENTS[record["deploymentId"]] = record
    # The new job exists before the old one goes: a refused deployment leaves the target as it was.
    for other in DEPLOYMENTS.values():
        if other is not record and other["targetArn"] == target and other["isLatestForTarget"]:
            other["isLatestForTarget"] = False
            await _cancel_job(other, f"superseded by deployment {record['deploymentId']}")
    return record


def _repeated(token: str | None) -> Record | None:
    return next((record for record in DEPLOYMENTS.values() if token and record["clientToken"] == token), None)


def _check_versions(components: dict[str, Any]) -> None:
    mistakes = []
    for name, component in components.items():
        if problem := name_problem(name):
            mistakes.append((f"components.{name}", problem))
        try:
            Version.parse(component["componentVersion"])
        except ValueError as error:
            mistakes.append((f"components.{name}.componentVersion", str(error)))
            continue
        known = PUBLIC_COMPONENTS.get(name)
        if known and component["componentVersion"] != known.version:
            text = f"must be {known.version}, the only one that the twin knows, got {component['componentVersion']}"
            mistakes.append((f"components.{name}.componentVersion", text))
    if mistakes:
        raise InvalidRequestError(mistakes)


def _record(request: dict[str, Any], target: str, name: str) -> Record:
    revision = int(REVISIONS.get(target, 0)) + 1
    account, region, job_id = get_account_id(), get_region(), str(uuid.uuid4())
    policies = request.get("deploymentPolicies") or {}
    return {
        "deploymentId": str(uuid.uuid4()),
        "deploymentName": request.get("deploymentName"),
        "targetArn": target,
        "parentTargetArn": request.get("parentTargetArn"),
        "revisionId": str(revision),
        "configurationArn": f"arn:aws:greengrass:{region}:{account}:configuration:{name}:{revision}",
        "components": request.get("components") or {},
        # The defaults of the CreateDeployment reference.
        "deploymentPolicies": {
            "failureHandlingPolicy": policies.get("failureHandlingPolicy", "ROLLBACK"),
            "componentUpdatePolicy": {
                "timeoutInSeconds": 60,
                "action": "NOTIFY_COMPONENTS",
                **(policies.get("componentUpdatePolicy") or {}),
            },
            "configurationValidationPolicy": {
                "timeoutInSeconds": 60,
                **(policies.get("configurationValidationPolicy") or {}),
            },
        },
        "iotJobConfiguration": request.get("iotJobConfiguration") or {},
        "iotJobId": job_id,
        "iotJobArn": f"arn:aws:iot:{region}:{account}:job/{job_id}",
        "creationTimestamp": CLOCK.time(),
        "isLatestForTarget": True,
        "canceled": False,
        "tags": dict(request.get("tags") or {}),
        "clientToken": request.get("clientToken"),
    }


async def _create_job(record: Record, document: str, selection: str) -> None:
    rules = record["iotJobConfiguration"]
    job = {
        "targets": [record["targetArn"]],
        "targetSelection": selection,
        "namespaceId": NAMESPACE,
        "document": document,
        "description": f"Greengrass deployment {record['deploymentId']}",
        **{key: rules[key] for key in ("jobExecutionsRolloutConfig", "abortConfig", "timeoutConfig") if rules.get(key)},
    }
    async with iot.publishing_events():
        status, _headers, body = await iot._create_job(record["iotJobId"], job)
    if status >= 400:
        raise InvalidRequestError(
            [("iotJobConfiguration", f"must be acceptable to IoT: {json.loads(body)['message']}")]
        )


async def _cancel_job(record: Record, comment: str) -> None:
    """Cancel the job if it still runs, its running executions too."""
    job = iot._jobs.get(record["iotJobId"])
    if job is not None and job["status"] == "IN_PROGRESS":
        async with iot.publishing_events():
            await iot._cancel_job(record["iotJobId"], {"comment": comment}, {"force": "true"})


def find_deployment(deployment_id: str) -> Record:
    """The deployment with this id.

    Raises:
        NotFoundError: If there is none.
    """
    return find(DEPLOYMENTS, deployment_id, "deployment")


def deployment_status(record: Record) -> str:
    """ACTIVE, COMPLETED or CANCELED for the target's latest revision, INACTIVE for an earlier one."""
    job = iot._jobs.get(record["iotJobId"])
    if record["canceled"]:
        return "CANCELED"
    if not record["isLatestForTarget"]:
        return "INACTIVE"
    status = job["status"] if job is not None else "CANCELED"
    return status if status in ("COMPLETED", "CANCELED") else "ACTIVE"


async def cancel_deployment(deployment_id: str) -> None:
    """Withdraw a deployment from the devices that have not finished it.

    Raises:
        NotFoundError: If there is none.
        ConflictError: If it is not active.
    """
    record = find_deployment(deployment_id)
    status = deployment_status(record)
    if status != "ACTIVE":
        raise ConflictError("deployment", deployment_id, f"deployment must be ACTIVE to be cancelled, got {status}")
    await _cancel_job(record, "CancelDeployment")
    record["canceled"] = True


async def delete_deployment(deployment_id: str) -> None:
    """Remove a deployment and its IoT job; devices that have it keep running it.

    Raises:
        NotFoundError: If there is none.
        ConflictError: If it is active.
    """
    record = find_deployment(deployment_id)
    if deployment_status(record) == "ACTIVE":
        raise ConflictError("deployment", deployment_id, "deployment must not be ACTIVE to be deleted: cancel it first")
    if record["iotJobId"] in iot._jobs:
        async with iot.publishing_events():
            await iot._delete_job(record["iotJobId"], {"force": "true"})
    DEPLOYMENTS.pop(deployment_id, None)


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


_SUMMARY = (
    "targetArn",
    "revisionId",
    "deploymentId",
    "deploymentName",
    "creationTimestamp",
    "isLatestForTarget",
    "parentTargetArn",
)
_DETAIL = (*_SUMMARY, "iotJobId", "iotJobArn", "components", "deploymentPolicies", "iotJobConfiguration", "tags")


async def _create(call: Call) -> Answer:
    record = await create_deployment(read_request(SERVICE, "CreateDeployment", call.body))
    return 201, {key: record[key] for key in ("deploymentId", "iotJobId", "iotJobArn")}


async def _get(call: Call) -> Answer:
    return 200, _view(find_deployment(call.names[0]), _DETAIL)


async def _cancel(call: Call) -> Answer:
    await cancel_deployment(call.names[0])
    return 200, {"message": "SUCCESS"}


async def _delete(call: Call) -> Answer:
    await delete_deployment(call.names[0])
    return 204, None


async def _list(call: Call) -> Answer:
    target, parent = call.query.get("targetArn"), call.query.get("parentTargetArn")
    history = call.query.get("historyFilter", "LATEST_ONLY")
    if history not in ("ALL", "LATEST_ONLY"):
        raise InvalidRequestError([("historyFilter", f"must be ALL or LATEST_ONLY, got {history!r}")])
    found = [
        record
        for record in DEPLOYMENTS.values()
        if target in (None, record["targetArn"])
        and parent in (None, record["parentTargetArn"])
        and (history == "ALL" or record["isLatestForTarget"])
    ]
    found.sort(key=lambda record: -record["creationTimestamp"])
    return 200, page("deployments", [_view(record, _SUMMARY) for record in found], call.query)


def _view(record: Record, members: tuple[str, ...]) -> dict[str, Any]:
    return {
        **{key: record[key] for key in members},
        "deploymentStatus": deployment_status(record),
    }


_DEPLOYMENTS = "/greengrass/v2/deployments"

ROUTES: list[Route] = [
    ("POST", _DEPLOYMENTS, _create),
    ("GET", _DEPLOYMENTS, _list),
    ("GET", _DEPLOYMENTS + "/([^/]+)", _get),
    ("POST", _DEPLOYMENTS + "/([^/]+)/cancel", _cancel),
    ("DELETE", _DEPLOYMENTS + "/([^/]+)", _delete),
]

STORES = {"greengrass_deployments": DEPLOYMENTS, "greengrass_revisions": REVISIONS}
