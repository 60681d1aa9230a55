"""Deployments: revisions of what a target runs, each carried to the devices by an IoT job."""

from __future__ import annotations

import json
import re
import time
import uuid
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region
from ministack.services import iot

from twin.cloud.greengrass.job_document import job_document
from twin.cloud.greengrass.service_error import ConflictError, InvalidRequestError, NotFoundError
from twin.cloud.greengrass.version_range import Version

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
        try:
            Version.parse(component["componentVersion"])
        except ValueError as error:
            mistakes.append((f"components.{name}.componentVersion", str(error)))
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
        "creationTimestamp": time.time(),
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
    record: Record | None = DEPLOYMENTS.get(deployment_id)
    if record is None:
        raise NotFoundError("deployment", deployment_id)
    return record


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
