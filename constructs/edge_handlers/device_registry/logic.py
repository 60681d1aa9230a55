"""Keeps the things of a fleet: makes them with type and ring, and takes them away to the last certificate.

Permissions:
    iot:ListThings  `*` (the action has no resource)
    iot:ListThingsInThingGroup
                    the rings' thing groups
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
    s3:GetObject    the list of devices, in the bucket of the CDK's assets

Work is what IoT Core's listings differ in from the list, so a call that runs out of time is simply made again. A thing
carries the attribute `edgewright-registry` with its registry's thing group. It keeps two registries from taking each
other's devices, and a replaced registry (another thing group) from deleting what its successor took over.
"""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.deadline import Deadline, DeadlineError
from edge_handlers.device_registry.certificates import delete_unattached, release
from edge_handlers.device_registry.inventory import ADOPTED, CLAIMED, GONE, OWNER, Inventory
from edge_handlers.device_registry.registry import Registry
from edge_handlers.service_client import error_code, explaining, ignoring, settling

LOG = logging.getLogger(__name__)
WORKERS = 8  # about a hundred calls a second together, which is what IoT Core takes of each kind


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

    def reconcile(self, registry: Registry, devices: dict[str, str], former_group: str | None) -> bool:
        """Register what is listed and, in the same registry, take away what no longer is.

        Args:
            registry: The wanted state.
            devices: Thing name to thing group.
            former_group: The registry's name before; another one makes this a replacement: all devices move over, and
                the Delete of the old registry that follows leaves them alone.

        Returns:
            Whether all is done; if not, the time was over and the next call goes on.

        Raises:
            OwnershipError: A device belongs to a third registry.
            AwsCallError: A call was refused; the text names the device.
        """
        found = Inventory.read(registry.group, registry.groups, self._iot)
        wanted = [name for name, group in devices.items() if not found.is_settled(name, group, registry.thing_type)]
        LOG.info("%d of %d devices to register", len(wanted), len(devices))
        if not self._each(wanted, lambda name: self._register(name, devices[name], registry, former_group)):
            return False
        unlisted = [
            name
            for name, thing in found.things.items()
            if name not in devices and CLAIMED not in thing.get("attributes", {})
        ]
        return self._each(sorted(unlisted), lambda name: self._remove(name, registry))

    def delete(self, registry: Registry) -> bool:
        """Take away every device of the registry, and the certificates that only its policy leads to.

        Returns:
            Whether all is done; if not, the time was over and the next call goes on.

        Raises:
            AwsCallError: A call was refused; the text names the device.
        """
        found = Inventory.read(registry.group, registry.groups, self._iot)
        names = sorted({*found.things, *(name for members in found.members.values() for name in members)})
        if not self._each(names, lambda name: self._remove(name, registry)):
            return False
        with explaining(f"delete the certificates of policy {registry.policy} without a thing"):
            delete_unattached(registry.policy, self._iot)
        return True

    def _each(self, names: Sequence[str], act: Callable[[str], None]) -> bool:
        """Do it for each device, several at a time, while there is time; the first error ends it."""

        def within_time(name: str) -> bool:
            try:
                self._deadline.check(f"go on with {name}")
            except DeadlineError:
                return False
            act(name)
            return True

        with ThreadPoolExecutor(WORKERS) as pool:
            futures = [pool.submit(within_time, name) for name in names]
            try:
                done = [future.result() for future in futures]  # all of them: each may hold an error
            except Exception:
                pool.shutdown(cancel_futures=True)
                raise
        return all(done)

    def _register(self, device: str, group: str, registry: Registry, former_group: str | None) -> None:
        """Bring one thing to its type, mark and ring."""
        with explaining(f"register device {device}"):
            found = self._describe(device)
            if found is None:
                self._iot.create_thing(
                    thingName=device,
                    thingTypeName=registry.thing_type,
                    attributePayload={"attributes": {OWNER: registry.group}},
                )
            else:
                self._take_in(device, found, registry, former_group)
            for other in registry.groups:
                if other != group and found is not None:
                    with ignoring(GONE):
                        self._iot.remove_thing_from_thing_group(thingGroupName=other, thingName=device)
            self._iot.add_thing_to_thing_group(thingGroupName=group, thingName=device)

    def _take_in(self, device: str, found: dict[str, Any], registry: Registry, former_group: str | None) -> None:
        owner = found.get("attributes", {}).get(OWNER)
        if owner not in (None, registry.group, former_group):
            raise OwnershipError(
                f"device {device} must belong to one registry, got one of thing group {owner}; "
                f"remove it there before it is added to {registry.group}"
            )
        if owner == registry.group and found.get("thingTypeName") == registry.thing_type:
            return
        marks = {OWNER: registry.group, **({ADOPTED: "true"} if owner is None else {})}
        self._iot.update_thing(
            thingName=device,
            thingTypeName=registry.thing_type,
            attributePayload={"attributes": marks, "merge": True},
        )

    def _remove(self, device: str, registry: Registry) -> None:
        """Delete one thing with all that hangs on it; a step that has nothing left to do is skipped."""
        with explaining(f"remove device {device}"):
            attributes = (self._describe(device) or {}).get("attributes", {})
            if attributes.get(OWNER) not in (None, registry.group):
                self._leave(device, registry.groups)
                return
            release(device, registry.policy, self._iot, self._is_registered, keep=ADOPTED in attributes)
            if ADOPTED in attributes:
                self._let_go(device, registry)
                return
            # After the certificates: a device that can still connect would make its core device anew.
            with ignoring(GONE):
                settling(lambda: self._greengrass.delete_core_device(coreDeviceThingName=device), "ConflictException")
            with ignoring(GONE):
                pages = self._iot.get_paginator("list_thing_groups_for_thing").paginate(thingName=device)
                self._leave(device, [group["groupName"] for page in pages for group in page["thingGroups"]])
            with ignoring(GONE):
                # Refused until the detached certificates are gone everywhere.
                settling(lambda: self._iot.delete_thing(thingName=device), "InvalidRequestException")
                LOG.info("deleted thing %s", device)

    def _leave(self, device: str, groups: Sequence[str]) -> None:
        for group in groups:
            # InvalidRequestException: a dynamic group, which lets go of the thing by itself.
            with ignoring(GONE, "InvalidRequestException"):
                self._iot.remove_thing_from_thing_group(thingGroupName=group, thingName=device)

    def _let_go(self, device: str, registry: Registry) -> None:
        """Leave a thing as it was found, but for its type, which the registry's may have replaced."""
        self._leave(device, registry.groups)
        with ignoring(GONE):
            # An empty value takes an attribute away.
            self._iot.update_thing(
                thingName=device,
                removeThingType=True,
                attributePayload={"attributes": {OWNER: "", ADOPTED: ""}, "merge": True},
            )
            LOG.info("let go of thing %s, which was there before", device)

    def _is_registered(self, device: str) -> bool:
        return OWNER in (self._describe(device) or {}).get("attributes", {})

    def _describe(self, device: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._iot.describe_thing(thingName=device)
        except ClientError as exc:
            if error_code(exc) == GONE:
                return None
            raise
        return found
