"""Lambda entry: brings the fleet's devices to the list, or takes them all away."""

from typing import Any

from edge_handlers.custom_resource import RequestType, parse
from edge_handlers.deadline import Deadline
from edge_handlers.device_list import DeviceList
from edge_handlers.sagemaker_devices.logic import SageMakerDevices, fleet_of, physical_id
from edge_handlers.service_client import client


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of the Provider framework."""
    request = parse(event)
    devices = SageMakerDevices(client("sagemaker"), Deadline.of(context))
    if request.type is RequestType.DELETE:
        # The id and not the properties: a replaced resource's Delete is about the fleet before.
        devices.delete(fleet_of(request.known_id))
        return {"PhysicalResourceId": request.known_id}
    fleet = request.properties.text("DeviceFleetName")
    names = DeviceList.of(request.properties).read(client("s3"))
    devices.reconcile(fleet, sorted(names))
    return {"PhysicalResourceId": physical_id(fleet), "Data": {"Count": str(len(names))}}
