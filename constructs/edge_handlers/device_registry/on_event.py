"""Lambda entry: registers devices, follows changes of the list, takes them away."""

from typing import Any

from edge_handlers.custom_resource import Properties, RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.device_registry.logic import DeviceRegistry
from edge_handlers.device_registry.registry import Registry
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    registry = Registry.of(request.properties)
    # A Create that runs out of time takes its things away again, which takes about as long as making them.
    deadline = Deadline.of(context, share=0.5 if request.type is RequestType.CREATE else 1.0)
    devices = DeviceRegistry(client("iot"), client("greengrassv2"), deadline)
    if request.type is RequestType.CREATE:
        return devices.create(registry)
    if request.type is RequestType.DELETE:
        devices.delete(registry)
        return {"PhysicalResourceId": request.known_id}
    return devices.update(
        registry,
        former_group=_former(request.old_properties, "ThingGroupName"),
        former_type=_former(request.old_properties, "ThingTypeName"),
        former=_former_devices(request.old_properties),
    )


def _former(old: Properties, name: str) -> str | None:
    value = old.values.get(name)
    return value if isinstance(value, str) and value else None


def _former_devices(old: Properties) -> set[str]:
    listed = old.values.get("Devices")
    return {name for name in listed if isinstance(name, str)} if isinstance(listed, list) else set()
