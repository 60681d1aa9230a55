"""The core device operations of the Greengrass API."""

from __future__ import annotations

from twin.cloud.greengrass import core_device
from twin.cloud.greengrass.page import page
from twin.cloud.greengrass.routing import Answer, Call, Route

_SUMMARY = ("coreDeviceThingName", "status", "lastStatusUpdateTimestamp", "platform", "architecture", "runtime")


async def _list(call: Call) -> Answer:
    found = core_device.core_devices(
        group_arn=call.query.get("thingGroupArn"), status=call.query.get("status"), runtime=call.query.get("runtime")
    )
    return 200, page("coreDevices", [{key: record[key] for key in _SUMMARY} for record in found], call.query)


async def _get(call: Call) -> Answer:
    record = core_device.find_core_device(call.names[0])
    return 200, {key: record[key] for key in (*_SUMMARY, "coreVersion", "tags")}


async def _delete(call: Call) -> Answer:
    core_device.delete_core_device(call.names[0])
    return 204, None


async def _list_installed_components(call: Call) -> Answer:
    everything = call.query.get("topologyFilter") == "ALL"
    components = core_device.find_core_device(call.names[0])["components"]
    found = [entry for _name, entry in sorted(components.items()) if everything or entry["isRoot"]]
    return 200, page("installedComponents", found, call.query)


async def _list_effective_deployments(call: Call) -> Answer:
    return 200, page("effectiveDeployments", core_device.effective_deployments(call.names[0]), call.query)


_CORE_DEVICES = "/greengrass/v2/coreDevices"

ROUTES: list[Route] = [
    ("GET", _CORE_DEVICES, _list),
    ("GET", _CORE_DEVICES + "/([^/]+)", _get),
    ("DELETE", _CORE_DEVICES + "/([^/]+)", _delete),
    ("GET", _CORE_DEVICES + "/([^/]+)/installedComponents", _list_installed_components),
    ("GET", _CORE_DEVICES + "/([^/]+)/effectiveDeployments", _list_effective_deployments),
]
