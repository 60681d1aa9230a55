"""Says why a deployment failed on a device: which component, and what the device reports of it."""

import logging
from typing import Any

from botocore.exceptions import ClientError

LOG = logging.getLogger(__name__)
BROKEN = ("BROKEN", "ERRORED")
#: Of one device's cause; CloudFormation cuts a reason after about a thousand characters.
LIMIT = 350


def explain(device: str, status: str, deployment: dict[str, Any], greengrass: Any, iot: Any) -> str:
    """Describe one device's failure.

    A cause that cannot be read is left out: the failure is the news, and it must not be hidden by another one.

    Args:
        device: The core device's thing name.
        status: Of its job execution.
        deployment: As GetDeployment describes it.
        greengrass: A boto3 greengrassv2 client.
        iot: A boto3 IoT client.

    Returns:
        Device, status, the components concerned, and the cause.
    """
    effective = _read(lambda: _effective(device, deployment, greengrass)) or {}
    details = _read(lambda: _job_details(device, deployment, iot)) or {}
    cause = details.get("deployment-failure-cause", "")
    if not cause:
        codes = (effective.get("statusDetails") or {}).get("errorStack") or []
        cause = ": ".join(filter(None, (effective.get("reason"), ", ".join(codes))))
    components = _read(lambda: _broken(device, greengrass)) or [
        f"{name} {wanted.get('componentVersion', '')}".strip()
        for name, wanted in (deployment.get("components") or {}).items()
        if name in cause
    ]
    named = f" component {', '.join(components)}:" if components else ""
    return f"{device} {status}:{named} {cause[:LIMIT] or 'the device gives no reason, see its logs'}"


def _effective(device: str, deployment: dict[str, Any], greengrass: Any) -> dict[str, Any]:
    for page in greengrass.get_paginator("list_effective_deployments").paginate(coreDeviceThingName=device):
        for found in page["effectiveDeployments"]:
            if found["deploymentId"] == deployment["deploymentId"]:
                return dict(found)
    return {}


def _job_details(device: str, deployment: dict[str, Any], iot: Any) -> dict[str, str]:
    answer = iot.describe_job_execution(jobId=deployment["iotJobId"], thingName=device)
    return dict(answer["execution"].get("statusDetails", {}).get("detailsMap", {}))


def _broken(device: str, greengrass: Any) -> list[str]:
    pages = greengrass.get_paginator("list_installed_components").paginate(
        coreDeviceThingName=device, topologyFilter="ALL"
    )
    return [
        f"{component['componentName']} {component['componentVersion']} {component['lifecycleState']}"
        for page in pages
        for component in page["installedComponents"]
        if component.get("lifecycleState") in BROKEN
    ]


def _read(call: Any) -> Any:
    try:
        return call()
    except ClientError as exc:
        LOG.warning("the cause is not readable: %s", exc)
        return None
