"""Keeps the things of a fleet: makes them with type and group, and takes them away to the last certificate.

Permissions:
    iot:CreateThing, iot:UpdateThing, iot:DescribeThing, iot:DeleteThing, iot:ListThingPrincipals,
    iot:ListThingGroupsForThing, iot:AttachThingPrincipal, iot:DetachThingPrincipal
                    arn:<partition>:iot:<region>:<account>:thing/*
    iot:CreateThing, iot:UpdateThing
                    also arn:…:thingtype/<ThingTypeName>
    iot:AddThingToThingGroup, iot:RemoveThingFromThingGroup
                    arn:…:thing/* and arn:…:thinggroup/*
    iot:DetachPolicy, iot:UpdateCertificate, iot:DeleteCertificate
                    arn:…:cert/*
    iot:ListPrincipalThings, iot:ListAttachedPolicies, iot:AttachThingPrincipal, iot:DetachThingPrincipal
                    `*` (the two Attach/Detach and the two List actions act on principals, which have no
                    resource type of their own)
    iot:ListTargetsForPolicy
                    arn:…:policy/<PolicyName>
    greengrass:DeleteCoreDevice
                    arn:<partition>:greengrass:<region>:<account>:coreDevices:*
    iot:DescribeJobExecution
                    arn:…:thing/* and arn:…:job/* (DeleteCoreDevice acts with the caller's rights)

A thing carries the attribute `edgewright-registry` with its registry's thing group. It keeps two registries from
taking each other's devices, and a replaced registry (another thing group) from deleting what its successor took over.
"""

import logging
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from edge_handlers.deadline import Deadline
from edge_handlers.device_registry.certificates import delete_unattached, release
from edge_handlers.device_registry.registry import Registry
from edge_handlers.service_client import AwsCallError, error_code, explaining, ignoring, settling

LOG = logging.getLogger(__name__)
OWNER = "edgewright-registry"
GONE = "ResourceNotFoundException"


class OwnershipError(ValueError):
    """A device belongs to another registry."""


class DeviceRegistry:
    """The calls behind the custom resource, each safe to repeat.

    Args:
        iot: A boto3 IoT client.
        greengrass: A boto3 greengrassv2 client.
        deadline: Checked before each device.
    """

    def __init__(self, iot: Any, greengrass: Any, deadline: Deadline) -> None:
        self._iot = iot
        self._greengrass = greengrass
        self._deadline = deadline

    def create(self, registry: Registry) -> dict[str, Any]:
        """Register every device; when one fails, the things made so far are taken away again.

        After a Create that failed the Provider framework sends no Delete to this code: nobody else would do it.

        Raises:
            OwnershipError: A device belongs to another registry.
            AwsCallError: A call was refused.
            DeadlineError: The time is over.
        """
        made: list[str] = []
        try:
            for number, device in enumerate(registry.devices):
                self._deadline.check(f"register {device} ({number} of {len(registry.devices)} done)")
                if self._register(device, registry, former_group=None):
                    made.append(device)
        except Exception:
            self._undo(made, registry)
            raise
        return self._answer(registry)

    def update(
        self, registry: Registry, former_group: str | None, former_type: str | None, former: set[str]
    ) -> dict[str, Any]:
        """Register what is new and, in the same group, take away what is no longer listed.

        Args:
            registry: The wanted state.
            former_group: Thing group before; another one makes this a replacement: all devices move over, and the
                Delete of the old registry that follows leaves them alone.
            former_type: Thing type before; another one is set on every device.
            former: Devices before.

        Raises:
            OwnershipError: A device belongs to a third registry.
            AwsCallError: A call was refused.
            DeadlineError: The time is over.
        """
        same_kind = (former_group, former_type) == (registry.group, registry.thing_type)
        wanted = [device for device in registry.devices if not same_kind or device not in former]
        for number, device in enumerate(wanted):
            self._deadline.check(f"register {device} ({number} of {len(wanted)} done)")
            self._register(device, registry, former_group)
        if former_group == registry.group:
            for device in sorted(former - set(registry.devices)):
                self._deadline.check(f"remove {device}")
                self._remove(device, registry)
        return self._answer(registry)

    def delete(self, registry: Registry) -> None:
        """Take away every device of the registry, and the certificates that only its policy leads to.

        Raises:
            AwsCallError: A call was refused; the text names the device.
            DeadlineError: The time is over; a second run goes on.
        """
        for number, device in enumerate(registry.devices):
            self._deadline.check(f"remove {device} ({number} of {len(registry.devices)} done)")
            self._remove(device, registry)
        with explaining(f"delete the certificates of policy {registry.policy} without a thing"):
            delete_unattached(registry.policy, self._iot)

    def _answer(self, registry: Registry) -> dict[str, Any]:
        return {"PhysicalResourceId": registry.physical_id, "Data": {"Count": str(len(registry.devices))}}

    def _undo(self, made: list[str], registry: Registry) -> None:
        """Remove things that were just made; what cannot be removed is logged, for the first error counts."""
        for device in made:
            try:
                self._remove(device, registry)
            except (AwsCallError, BotoCoreError):
                LOG.exception("thing %s is left behind", device)

    def _register(self, device: str, registry: Registry, former_group: str | None) -> bool:
        """Bring one thing to its type, owner and group; True where it was made."""
        attributes = {"attributes": {OWNER: registry.group}}
        with explaining(f"register device {device}"):
            found = self._describe(device)
            if found is None:
                self._iot.create_thing(thingName=device, thingTypeName=registry.thing_type, attributePayload=attributes)
            else:
                owner = found.get("attributes", {}).get(OWNER)
                if owner not in (None, registry.group, former_group):
                    raise OwnershipError(
                        f"device {device} must belong to one registry, got one of thing group {owner}; "
                        f"remove it there before it is added to {registry.group}"
                    )
                if owner != registry.group or found.get("thingTypeName") != registry.thing_type:
                    self._iot.update_thing(
                        thingName=device,
                        thingTypeName=registry.thing_type,
                        attributePayload={**attributes, "merge": True},
                    )
            self._iot.add_thing_to_thing_group(thingGroupName=registry.group, thingName=device)
        return found is None

    def _remove(self, device: str, registry: Registry) -> None:
        """Delete one thing with all that hangs on it; a step that has nothing left to do is skipped."""
        with explaining(f"remove device {device}"):
            if self._owner(device) not in (None, registry.group):
                with ignoring(GONE):
                    self._iot.remove_thing_from_thing_group(thingGroupName=registry.group, thingName=device)
                return
            release(device, registry.policy, self._iot, lambda other: self._owner(other) is not None)
            # After the certificates: a device that can still connect would make its core device anew.
            with ignoring(GONE):
                settling(lambda: self._greengrass.delete_core_device(coreDeviceThingName=device), "ConflictException")
            with ignoring(GONE):
                pages = self._iot.get_paginator("list_thing_groups_for_thing").paginate(thingName=device)
                for group in [group["groupName"] for page in pages for group in page["thingGroups"]]:
                    # InvalidRequestException: a dynamic group, which lets go of the thing by itself.
                    with ignoring(GONE, "InvalidRequestException"):
                        self._iot.remove_thing_from_thing_group(thingGroupName=group, thingName=device)
            with ignoring(GONE):
                # Refused until the detached certificates are gone everywhere.
                settling(lambda: self._iot.delete_thing(thingName=device), "InvalidRequestException")
                LOG.info("deleted thing %s", device)

    def _owner(self, device: str) -> str | None:
        """Thing group of the registry that a thing belongs to; None for no registry or no thing."""
        found = self._describe(device) or {}
        owner: str | None = found.get("attributes", {}).get(OWNER)
        return owner

    def _describe(self, device: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._iot.describe_thing(thingName=device)
        except ClientError as exc:
            if error_code(exc) == GONE:
                return None
            raise
        return found
