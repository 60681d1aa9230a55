"""Registers things as devices of a SageMaker device fleet, and takes them away.

Permissions:
    sagemaker:ListDevices       `*` (the action has no resource)
    sagemaker:RegisterDevices, sagemaker:DeregisterDevices
                                arn:<partition>:sagemaker:<region>:<account>:device-fleet/<fleet>/device/* and the
                                fleet itself
    s3:GetObject                the list of devices, in the bucket of the CDK's assets
"""

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.deadline import Deadline
from edge_handlers.service_client import error_code, explaining, settling

LOG = logging.getLogger(__name__)
RETIRED = 'AWS retired SageMaker Edge Manager on 2024-04-26; set fleet.registry = "iot"'
#: SageMaker's API names devices more narrowly than IoT Core names things.
DEVICE_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
BATCH = 50
_PREFIX = "sagemaker-devices-"


def physical_id(fleet: str) -> str:
    """The same for the life of the fleet."""
    return f"{_PREFIX}{fleet}"


def fleet_of(identifier: str) -> str | None:
    """The fleet of a physical id; None for an id that no Create of this handler gave."""
    return identifier.removeprefix(_PREFIX) if identifier.startswith(_PREFIX) else None


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
            if not isinstance(exc.__cause__, ClientError) or not _is_absent(exc.__cause__):
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


def _is_absent(error: ClientError) -> bool:
    """SageMaker answers for a name it does not know with either code."""
    words = ("does not exist", "could not find", "not found")
    return error_code(error) == "ResourceNotFound" or (
        error_code(error) == "ValidationException" and any(each in str(error).lower() for each in words)
    )
