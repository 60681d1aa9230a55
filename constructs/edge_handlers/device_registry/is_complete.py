"""Lambda entry: works on the devices for a while, and is called again until all are done."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.device_registry.logic import DeviceRegistry
from edge_handlers.device_registry.registry import Registry
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one poll of the Provider framework."""
    request = parse(event)
    registry = Registry.of(request.properties)
    # A device that was begun in the last moment may take the other half.
    work = DeviceRegistry(client("iot"), client("greengrassv2"), Deadline.of(context, share=0.5))
    if request.type is RequestType.DELETE:
        return {"IsComplete": work.delete(registry)}
    devices = registry.read_devices(client("s3"))
    former = request.old_properties.values.get("ThingGroupName")
    if not work.reconcile(registry, devices, former if isinstance(former, str) else None):
        return {"IsComplete": False}
    return {"IsComplete": True, "Data": {"Count": str(len(devices))}}
