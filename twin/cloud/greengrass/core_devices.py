"""Core devices as their own fleet status messages describe them: inventory, deployments, events, their API."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region, request_scope
from ministack.services import eventbridge, iot

from twin.clock import CLOCK
from twin.cloud.aws.protocol import Answer, Call, NotFoundError, Route, find, page
from twin.cloud.greengrass.deployments import DEPLOYMENTS
from twin.cloud.ministack.patches import patch

logger = logging.getLogger("twin.greengrass")

Record = dict[str, Any]

CORE_DEVICES: AccountRegionScopedDict = AccountRegionScopedDict()
"""Thing name → record: the members of GetCoreDevice, `components` by name and reported `deployments` by id."""


def core_device_arn(thing: str) -> str:
    """ARN of a core device of the request's account and region."""
    return f"arn:aws:greengrass:{get_region()}:{get_account_id()}:coreDevices:{thing}"


def find_core_device(thing: str) -> Record:
    """The core device with this thing name.

    Raises:
        NotFoundError: If none has reported itself.
    """
    return find(CORE_DEVICES, thing, "core device")


def delete_core_device(thing: str) -> None:
    """Forget a core device; the thing stays, and a device that reports again comes back.

    Raises:
        NotFoundError: If there is none.
    """
    find_core_device(thing)
    del CORE_DEVICES[thing]


def report(thing: str, message: dict[str, Any]) -> None:
    """Take a fleet status message in: COMPLETE replaces the inventory, PARTIAL merges into it.

    Args:
        thing: Name of an existing thing; the first message makes it a core device.
        message: The JSON of `$aws/things/<thing>/greengrassv2/health/json`; its timestamp is in milliseconds.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: If the message is not of that form; nothing is changed then.
    """
    reported = float(message.get("timestamp") or CLOCK.time() * 1000) / 1000
    if not math.isfinite(reported):
        raise ValueError(f"timestamp must be milliseconds since 1970, got {message['timestamp']}")
    record = CORE_DEVICES.get(thing) or {"components": {}, "deployments": {}, "tags": {}}
    before: dict[str, Any] = record["components"]
    components = {} if message.get("messageType") == "COMPLETE" else dict(before)
    for entry in message.get("components") or []:
        name = str(entry["componentName"])
        if entry.get("status") == "UNINSTALLED":
            components.pop(name, None)
        else:
            components[name] = _component(name, entry, before.get(name) or {}, reported)
    deployments = dict(record["deployments"])
    information = message.get("deploymentInformation") or {}
    if information.get("deploymentId"):
        deployments[str(information["deploymentId"])] = {**information, "timestamp": reported}
    CORE_DEVICES[thing] = {
        **record,
        "coreDeviceThingName": thing,
        "coreVersion": message.get("ggcVersion"),
        "platform": message.get("platform"),
        "architecture": message.get("architecture"),
        "runtime": message.get("runtime") or "aws_nucleus_classic",
        "status": message.get("overallDeviceStatus"),
        "lastStatusUpdateTimestamp": reported,
        "components": components,
        # A removed deployment is reported no more: its last report goes with it.
        "deployments": {key: value for key, value in deployments.items() if key in DEPLOYMENTS},
    }


def _component(name: str, entry: dict[str, Any], before: dict[str, Any], reported: float) -> dict[str, Any]:
    state, details = entry.get("status"), entry.get("statusDetails")
    codes = details.get("statusCodes") if isinstance(details, dict) else None
    changed = before.get("lastStatusChangeTimestamp", reported) if before.get("lifecycleState") == state else reported
    return {
        "componentName": name,
        "componentVersion": entry.get("version"),
        "lifecycleState": state,
        "lifecycleStateDetails": details if isinstance(details, str) else None,
        "lifecycleStatusCodes": codes or [],
        "isRoot": bool(entry.get("isRoot")),
        "lastStatusChangeTimestamp": changed,
        "lastReportedTimestamp": reported,
        "lastInstallationSource": next(iter(entry.get("fleetConfigArns") or []), None),
    }


def core_devices(*, group_arn: str | None, status: str | None, runtime: str | None) -> list[Record]:
    """The core devices that pass the given filters, by name."""
    members = iot._job_target_resolve(group_arn) if group_arn else None
    if group_arn and members is None:
        raise NotFoundError("thing group", group_arn)
    return sorted(
        (
            record
            for record in CORE_DEVICES.values()
            if (members is None or record["coreDeviceThingName"] in members)
            and status in (None, record["status"])
            and runtime in (None, record["runtime"])
        ),
        key=lambda record: str(record["coreDeviceThingName"]),
    )


def effective_deployments(thing: str) -> list[dict[str, Any]]:
    """The deployments that reached a core device, the latest change first, with what the device reported of each.

    Raises:
        NotFoundError: If there is no such core device.
    """
    reports = find_core_device(thing)["deployments"]
    iot._jobs_materialize_all()
    found = []
    for deployment in DEPLOYMENTS.values():
        execution = iot._job_executions.get((thing, deployment["iotJobId"]))
        if execution is None or execution["status"] == "REMOVED":
            continue
        details = (reports.get(deployment["deploymentId"]) or {}).get("statusDetails") or {}
        reason = details.get("detailedStatus") or (execution.get("statusDetails") or {}).get(
            "detailed-deployment-status"
        )
        found.append(
            {
                **{key: deployment[key] for key in ("deploymentId", "iotJobId", "iotJobArn", "targetArn")},
                # The service model requires a name; the console shows an unnamed deployment by its id.
                "deploymentName": deployment.get("deploymentName") or deployment["deploymentId"],
                "coreDeviceExecutionStatus": execution["status"],
                "reason": reason,
                "creationTimestamp": execution["queuedAt"] / 1000,
                "modifiedTimestamp": execution["lastUpdatedAt"] / 1000,
                "statusDetails": {key: details[key] for key in ("errorStack", "errorTypes") if details.get(key)}
                or None,
            }
        )
    return sorted(found, key=lambda entry: -entry["modifiedTimestamp"])


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


_TOPIC = re.compile(r"\$aws/things/([^/]+)/greengrassv2/health/json")


@patch(
    "services.iot.broker_publish",
    why="fleet status messages are read on their way through the broker",
    signature="async (account_id, region, topic, payload, qos=0, retain=False, properties=b'', client_id=None, "
    "principal=None)",
)
async def _broker_publish(
    deliver: Callable[..., Any], account_id: str, region: str, topic: str, payload: bytes, *args: Any, **more: Any
) -> None:
    if match := _TOPIC.fullmatch(topic):
        with request_scope(account_id, region):
            ingest(match[1], payload)
    await deliver(account_id, region, topic, payload, *args, **more)


def ingest(thing: str, payload: bytes) -> None:
    """Take one message in; one that cannot be read, or of a thing that does not exist, is logged and dropped."""
    if thing not in iot._things:
        logger.warning("fleet status: thing must exist, got %r: message dropped", thing)
        return
    try:
        message = json.loads(payload)
        before = last_reported(thing, message)
        report(thing, message)
        tell(thing, message, before)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("fleet status of %s must be the JSON of a health message: %r, message dropped", thing, error)


_SUMMARY = ("coreDeviceThingName", "status", "lastStatusUpdateTimestamp", "platform", "architecture", "runtime")


async def _list(call: Call) -> Answer:
    found = core_devices(
        group_arn=call.query.get("thingGroupArn"), status=call.query.get("status"), runtime=call.query.get("runtime")
    )
    return 200, page("coreDevices", [{key: record[key] for key in _SUMMARY} for record in found], call.query)


async def _get(call: Call) -> Answer:
    record = find_core_device(call.names[0])
    return 200, {key: record[key] for key in (*_SUMMARY, "coreVersion", "tags")}


async def _delete(call: Call) -> Answer:
    delete_core_device(call.names[0])
    return 204, None


async def _list_installed_components(call: Call) -> Answer:
    everything = call.query.get("topologyFilter") == "ALL"
    components = find_core_device(call.names[0])["components"]
    found = [entry for _name, entry in sorted(components.items()) if everything or entry["isRoot"]]
    return 200, page("installedComponents", found, call.query)


async def _list_effective_deployments(call: Call) -> Answer:
    return 200, page("effectiveDeployments", effective_deployments(call.names[0]), call.query)


_CORE_DEVICES = "/greengrass/v2/coreDevices"

ROUTES: list[Route] = [
    ("GET", _CORE_DEVICES, _list),
    ("GET", _CORE_DEVICES + "/([^/]+)", _get),
    ("DELETE", _CORE_DEVICES + "/([^/]+)", _delete),
    ("GET", _CORE_DEVICES + "/([^/]+)/installedComponents", _list_installed_components),
    ("GET", _CORE_DEVICES + "/([^/]+)/effectiveDeployments", _list_effective_deployments),
]

STORES = {"greengrass_core_devices": CORE_DEVICES}
