"""The event that Greengrass sends to EventBridge when a deployment has ended on a core device."""

from __future__ import annotations

import json
from typing import Any

from ministack.services import eventbridge

from twin.cloud.greengrass.core_device import CORE_DEVICES, core_device_arn

DETAIL_TYPE = "Greengrass V2 Effective Deployment Status Change"
FINAL = frozenset({"FAILED", "SUCCEEDED", "COMPLETED", "REJECTED", "CANCELED"})
"""The states that are told (Greengrass developer guide, "Deployment status change event")."""


def last_reported(thing: str, message: dict[str, Any]) -> Any:
    """The status that a core device reported before of the deployment that a message is about; None of a new one."""
    record = CORE_DEVICES.get(thing) or {"deployments": {}}
    identifier = str((message.get("deploymentInformation") or {}).get("deploymentId"))
    return (record["deployments"].get(identifier) or {}).get("status")


def tell(thing: str, message: dict[str, Any], before: Any) -> None:
    """Send the event if a fleet status message says that a deployment has newly ended.

    Args:
        thing: Name of the core device.
        message: The fleet status message.
        before: What `last_reported` gave before the message was taken in.
    """
    information = message.get("deploymentInformation") or {}
    status = information.get("status")
    if status not in FINAL or status == before:
        return
    details = information.get("statusDetails")
    details = details if isinstance(details, dict) else {}
    detail = {
        "deploymentId": information.get("deploymentId"),
        "coreDeviceExecutionStatus": status,
        "statusDetails": {name: details.get(name) or [] for name in ("errorStack", "errorTypes")},
        "reason": str(details.get("detailedStatus") or status),
    }
    entry = {
        "Source": "aws.greengrass",
        "DetailType": DETAIL_TYPE,
        "Resources": [core_device_arn(thing)],
        "Detail": json.dumps(detail),
    }
    eventbridge._put_events({"Entries": [entry]}, allow_aws_source=True)
