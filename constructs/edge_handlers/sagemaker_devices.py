"""Custom resource: the devices of a SageMaker device fleet, which AWS retired and keeps in its API."""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from botocore.exceptions import ClientError

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, RequestType, parse
from edge_handlers.device_list import DeviceList
from edge_handlers.service_client import AwsCallError, Deadline, DeadlineError, client, explaining, is_absent, settling

LOG = logging.getLogger(__name__)
RETIRED = 'AWS retired SageMaker Edge Manager on 2024-04-26; set fleet.registry = "iot"'
#: SageMaker's API names devices more narrowly than IoT Core names things.
DEVICE_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
BATCH = 50
_PREFIX = "sagemaker-devices-"


@dataclass(frozen=True)
class FleetDevices(Contract):
    """The devices.

    Args:
        fleet: Name of the device fleet.
        listing: Where the list of the fleet's things lies.
    """

    TYPE = "Custom::SagemakerDevices"

    fleet: Annotated[str, Key("DeviceFleetName")]
    listing: DeviceList

    @property
    def physical_id(self) -> str:
        """The same for the life of the fleet."""
        return f"{_PREFIX}{self.fleet}"


def fleet_of(identifier: str) -> str | None:
    """The fleet of a physical id; None for an id that no Create of this handler gave."""
    return identifier.removeprefix(_PREFIX) if identifier.startswith(_PREFIX) else None


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Bring the fleet's devices to the list, or take them all away."""
    request = parse(event)
    # A Create that fails needs the other half to undo what it has done.
    share = 0.5 if request.type is RequestType.CREATE else 1.0
    devices = SageMakerDevices(client("sagemaker"), Deadline.of(context, share))
    if request.type is RequestType.DELETE:
        # The id before the properties: a replaced resource's Delete is about the fleet before. CloudFormation makes the
        # id up where the Create was cancelled.
        fleet = fleet_of(request.known_id) or request.properties.optional_text(FleetDevices.key("fleet"))
        devices.delete(fleet)
        return {"PhysicalResourceId": request.known_id}
    wanted = FleetDevices.of(request.properties)
    names = wanted.listing.read(client("s3"))
    try:
        devices.reconcile(wanted.fleet, sorted(names))
    except (AwsCallError, DeadlineError):
        if request.type is RequestType.CREATE:
            # Nobody would send the Delete that undoes it, and a fleet that has devices cannot be deleted.
            with suppress(AwsCallError, DeadlineError):
                SageMakerDevices(client("sagemaker"), Deadline.of(context)).delete(wanted.fleet)
        raise
    return {"PhysicalResourceId": wanted.physical_id, "Data": {"Count": str(len(names))}}


class SageMakerDevices:
    """The calls behind the custom resource, each safe to repeat.

    Args:
        sagemaker: A boto3 SageMaker client.
        deadline: Checked before each batch.
    """

    def __init__(self, sagemaker: Any, deadline: Deadline) -> None:
        self._sagemaker = sagemaker
        self._deadline = deadline

    def reconcile(self, fleet: str, names: Sequence[str]) -> None:
        """Register what is listed and take away what no longer is.

        Args:
            fleet: Name of a device fleet that exists.
            names: Names of things, which become names of devices.

        Raises:
            ValueError: SageMaker cannot take a name.
            AwsCallError: A call was refused; today SageMaker refuses them all.
            DeadlineError: The time is over; a second run goes on.
        """
        if wrong := [name for name in names if not DEVICE_NAME.fullmatch(name)]:
            raise ValueError(
                f"devices of fleet {fleet} must have names of 1 to 63 letters, digits and inner dashes, got {wrong[:5]}"
            )
        there = set(self._list(fleet))
        self._register(fleet, [name for name in names if name not in there])
        self._deregister(fleet, sorted(there - set(names)))

    def delete(self, fleet: str | None) -> None:
        """Take every device of a fleet away; a fleet that is gone has none.

        Raises:
            AwsCallError: A call was refused.
            DeadlineError: The time is over; a second run goes on.
        """
        if fleet is None:
            return
        try:
            self._deregister(fleet, list(self._list(fleet)))
        except RuntimeError as exc:
            if not isinstance(exc.__cause__, ClientError) or not is_absent(exc.__cause__):
                raise
            LOG.info("device fleet %s is gone", fleet)

    def _list(self, fleet: str) -> Iterator[str]:
        with explaining(f"list the devices of fleet {fleet} ({RETIRED})"):
            for page in self._sagemaker.get_paginator("list_devices").paginate(DeviceFleetName=fleet):
                yield from (device["DeviceName"] for device in page["DeviceSummaries"])

    def _register(self, fleet: str, names: Sequence[str]) -> None:
        for batch in _batches(names):
            self._deadline.check(f"register {batch[0]} and {len(batch) - 1} more in fleet {fleet}")
            devices = [{"DeviceName": name, "IotThingName": name} for name in batch]
            with explaining(f"register devices in fleet {fleet} ({RETIRED})"):
                # A fleet is known to every part of SageMaker some seconds after it is made.
                settling(
                    lambda devices=devices: self._sagemaker.register_devices(  # type: ignore[misc]
                        DeviceFleetName=fleet, Devices=devices
                    ),
                    "ResourceNotFound",
                )

    def _deregister(self, fleet: str, names: Sequence[str]) -> None:
        for batch in _batches(names):
            self._deadline.check(f"deregister {batch[0]} and {len(batch) - 1} more of fleet {fleet}")
            with explaining(f"deregister devices of fleet {fleet} ({RETIRED})"):
                self._sagemaker.deregister_devices(DeviceFleetName=fleet, DeviceNames=batch)


def _batches(names: Sequence[str]) -> Iterator[list[str]]:
    return (list(names[start : start + BATCH]) for start in range(0, len(names), BATCH))


handler = answering(on_event)
