"""Decides from what Greengrass and IoT Core tell whether a ring runs its deployment.

Permissions:
    greengrass:ListCoreDevices      `*` (the action has no resource)
    greengrass:GetDeployment        arn:<partition>:greengrass:<region>:<account>:deployments:*
    iot:ListJobExecutionsForJob     arn:<partition>:iot:<region>:<account>:job/*
    greengrass:ListEffectiveDeployments, greengrass:ListInstalledComponents
                                    arn:…:coreDevices:* (why a device failed)
    iot:DescribeJobExecution        arn:…:job/* and arn:…:thing/* (the same)
    iot:DescribeJob, iot:DescribeThing, iot:DescribeThingGroup, iot:GetThingShadow
                                    the same (Greengrass acts with the caller's rights)

The status of a device's job execution is its effective status of the deployment. Two listings tell it of all devices,
where ListEffectiveDeployments is a call a device. A device is healthy when its execution has succeeded and Greengrass
calls the device HEALTHY: a component may break after its deployment has succeeded.
"""

import logging
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.deployment_health.diagnosis import explain
from edge_handlers.deployment_health.health_check import HealthCheck
from edge_handlers.service_client import error_code, explaining, ignoring

LOG = logging.getLogger(__name__)
GONE = "ResourceNotFoundException"
THROTTLED = frozenset(("ThrottlingException", "TooManyRequestsException", "Throttling"))
HEALTHY = "HEALTHY"
FAILED = frozenset(("FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"))
ENDED = frozenset(("CANCELED", "FAILED", "INACTIVE"))
_SHOWN_FAILED = 3  # each costs three calls and some hundred characters of a reason that holds about a thousand
_SHOWN_WAITED_FOR = 10


class DeploymentHealthError(RuntimeError):
    """Too few devices run the deployment; the text names them, with component and reason where they failed."""


def follow(check: HealthCheck, greengrass: Any, iot: Any, *, is_update: bool, is_last: bool) -> dict[str, Any]:
    """Look at the ring's devices once.

    Args:
        check: What to wait for.
        greengrass: A boto3 greengrassv2 client.
        iot: A boto3 IoT client.
        is_update: Whether a rollback may have asked: it comes as an Update to a deployment that another one has
            superseded, for which nobody waits any more.
        is_last: Whether the time is over.

    Returns:
        The framework's answer: complete when enough devices are healthy, or when the ring has no core device yet.

    Raises:
        DeploymentHealthError: Too many devices have failed, the deployment was ended, or the time is over.
        AwsCallError: A call was refused, unless by throttling while there is time.
    """
    try:
        return _look(check, greengrass, iot, is_update=is_update, is_last=is_last)
    except RuntimeError as exc:
        cause = exc.__cause__
        if is_last or not isinstance(cause, ClientError) or error_code(cause) not in THROTTLED:
            raise
        LOG.warning("%s: %s; asking again", check, exc)
        return {"IsComplete": False}


def _look(check: HealthCheck, greengrass: Any, iot: Any, *, is_update: bool, is_last: bool) -> dict[str, Any]:
    deployment = _deployment(check, greengrass)
    if is_update and (deployment is None or not deployment["isLatestForTarget"]):
        LOG.warning("%s has been superseded: nothing to wait for", check)
        return _complete(0, 0)
    if deployment is None or not deployment["isLatestForTarget"]:
        fate = "is gone" if deployment is None else "has been superseded by another deployment to its target"
        raise DeploymentHealthError(f"{check} {fate}, nobody runs it: deploy again")
    states = _states(check, deployment["iotJobId"], greengrass, iot)
    healthy = sum(state == HEALTHY for state in states.values())
    needed = check.needed(len(states))
    LOG.info("%s: %d of %d devices are healthy, %d needed", check, healthy, len(states), needed)
    if healthy >= needed:
        return _complete(healthy, len(states))
    failed = sorted(device for device, state in states.items() if state in FAILED)
    ended = deployment["deploymentStatus"] in ENDED
    if ended or len(failed) > len(states) - needed:
        what = f"{check} was ended ({deployment['deploymentStatus']})" if ended else f"{check} failed"
        causes = [explain(device, states[device], deployment, greengrass, iot) for device in failed[:_SHOWN_FAILED]]
        more = [f"and {len(failed) - _SHOWN_FAILED} more"] if len(failed) > _SHOWN_FAILED else []
        raise DeploymentHealthError(f"{what} on {len(failed)} of {len(states)} devices: {'; '.join(causes + more)}")
    if is_last:
        raise DeploymentHealthError(_overdue(check, states, healthy, needed))
    return {"IsComplete": False}


def _deployment(check: HealthCheck, greengrass: Any) -> dict[str, Any] | None:
    with explaining(f"read {check}"), ignoring(GONE):
        return dict(greengrass.get_deployment(deploymentId=check.deployment))
    return None


def _states(check: HealthCheck, job: str, greengrass: Any, iot: Any) -> dict[str, str]:
    """Core device to its state: HEALTHY, a job execution's status, or what it has not done yet."""
    executions = dict(_executions(check, job, iot))
    states = dict.fromkeys(check.expected, "has never reported")
    for device, status in _core_devices(check, greengrass):
        execution = executions.get(device, "not reached yet")
        states[device] = (status or "of unknown health") if execution == "SUCCEEDED" else execution
    return states


def _core_devices(check: HealthCheck, greengrass: Any) -> Iterator[tuple[str, str]]:
    """Name and status of each core device of the ring; a thing that never reported is none."""
    with explaining(f"list the core devices of ring {check.ring}"):
        for page in greengrass.get_paginator("list_core_devices").paginate(thingGroupArn=check.group_arn):
            for device in page["coreDevices"]:
                yield device["coreDeviceThingName"], device.get("status", "")


def _executions(check: HealthCheck, job: str, iot: Any) -> Iterator[tuple[str, str]]:
    with explaining(f"list the devices that {check} has reached"), ignoring(GONE):
        for page in iot.get_paginator("list_job_executions_for_job").paginate(jobId=job):
            for execution in page["executionSummaries"]:
                device = execution["thingArn"].partition(":thing/")[2]
                yield device, execution["jobExecutionSummary"]["status"]


def _overdue(check: HealthCheck, states: dict[str, str], healthy: int, needed: int) -> str:
    waited_for = sorted(f"{device} ({state})" for device, state in states.items() if state != HEALTHY)
    more = [f"and {len(waited_for) - _SHOWN_WAITED_FOR} more"] if len(waited_for) > _SHOWN_WAITED_FOR else []
    return (
        f"{check} must be healthy on {needed} of {len(states)} devices within {check.timeout_s} s, {healthy} are; "
        f"waited for {', '.join(waited_for[:_SHOWN_WAITED_FOR] + more)}"
    )


def _complete(healthy: int, devices: int) -> dict[str, Any]:
    return {"IsComplete": True, "Data": {"Healthy": str(healthy), "Devices": str(devices)}}
