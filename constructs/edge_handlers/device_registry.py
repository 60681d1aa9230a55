"""Custom resource: the things of a fleet, made with type and ring, and taken away to the last certificate.

Work is what IoT Core's listings differ in from the list, so a call that runs out of time is simply made again. A thing
carries the attribute `edgewright-registry` with its registry's thing group. It keeps two registries from taking each
other's devices, and a replaced registry (another thing group) from deleting what its successor took over.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from botocore.exceptions import ClientError

from edge_handlers.answering import answering, still_asked_s
from edge_handlers.certificates import check_targets, delete_unattached, release
from edge_handlers.custom_resource import Contract, Key, Properties, RequestType, json_object, parse
from edge_handlers.device_list import ADOPTED, CLAIMED, OWNER, UNTYPED, DeviceList
from edge_handlers.service_client import (
    GONE,
    Deadline,
    client,
    describe,
    each_in_time,
    error_code,
    explaining,
    ignoring,
    settling,
)

LOG = logging.getLogger(__name__)
WORKERS = 8  # about a hundred calls a second together, which is what IoT Core takes of each kind
PAGE = 250
# Thing names: `[a-zA-Z0-9:_-]+`, 128 at most (IoT API); Greengrass takes 124 bytes of them.
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")


class OwnershipError(ValueError):
    """A device belongs to another registry."""


@dataclass(frozen=True)
class Registry(Contract):
    """The registry as the stack describes it.

    Args:
        group: Thing group of the ring `all`; it names the registry.
        rings: Ring to its thing group; they must exist.
        thing_type: Thing type of all devices; it must exist.
        policy: IoT policy of the devices' certificates.
        listing: Where the list of devices lies.
    """

    TYPE = "Custom::DeviceRegistry"

    group: Annotated[str, Key("ThingGroupName")]
    rings: Annotated[dict[str, str], json_object("Rings")]
    thing_type: Annotated[str, Key("ThingTypeName")]
    policy: Annotated[str, Key("PolicyName")]
    listing: DeviceList

    def check(self, properties: Properties) -> None:
        """Refuse rings without the registry's own group, and what is no name of a group."""
        groups = self.rings.values()
        if self.group not in groups or not all(isinstance(name, str) and name for name in groups):
            raise ValueError(
                f"{properties.where}.{self.key('rings')} must map rings to thing groups, {self.group} among them, "
                f"got {self.rings}"
            )

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing group."""
        return f"registry-{self.group}"

    @property
    def groups(self) -> tuple[str, ...]:
        """The thing groups of all rings."""
        return tuple(self.rings.values())

    def read_devices(self, s3: Any) -> dict[str, str]:
        """Read the list: a JSON object of thing name to ring.

        Args:
            s3: A boto3 S3 client.

        Returns:
            Thing name to thing group.

        Raises:
            ValueError: The list cannot be used.
            AwsCallError: S3 refused the call.
        """
        return {name: self.rings[ring] for name, ring in self.checked(self.listing.read(s3)).items()}

    def checked(self, devices: dict[str, str]) -> dict[str, str]:
        """Give the list back if it can be used.

        Args:
            devices: Thing name to ring.

        Raises:
            ValueError: A device's name cannot be a core device's, or a ring is unknown.
        """
        if wrong := [name for name in devices if not THING_NAME.fullmatch(name)]:
            raise ValueError(
                f"devices in {self.listing.location} must be names of 1 to 124 letters, digits, ':', '_' or '-', "
                f"got {wrong[:5]}"
            )
        if unknown := sorted(set(devices.values()) - set(self.rings)):
            raise ValueError(
                f"rings in {self.listing.location} must be of {', '.join(self.rings)}, got {', '.join(unknown)}"
            )
        return devices


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Check what is asked for; is_complete does it, in as many calls as it takes.

    Nothing is changed here: after a Create that fails in this function nobody would send the Delete that undoes it.
    """
    request = parse(event)
    registry = Registry.of(request.properties)
    return {"PhysicalResourceId": request.known_id if request.type is RequestType.DELETE else registry.physical_id}


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one poll: work on the devices for a while; the framework asks again until all are done."""
    request = parse(event)
    registry = Registry.of(request.properties)
    if (left_s := still_asked_s(event)) > 0:
        LOG.info(
            "waits %.0f s: the last question of a cancelled event may be registering what is to be removed", left_s
        )
        return {"IsComplete": False}
    # A device that was begun in the last moment may take the other half.
    work = DeviceRegistry(client("iot"), client("greengrassv2"), Deadline.of(context, share=0.5))
    if request.type is RequestType.DELETE:
        return {"IsComplete": work.delete(registry)}
    devices = registry.read_devices(client("s3"))
    former = request.old_properties.values.get(Registry.key("group"))
    if not work.reconcile(registry, devices, former if isinstance(former, str) else None):
        return {"IsComplete": False}
    return {"IsComplete": True, "Data": {"Count": str(len(devices))}}


@dataclass
class Inventory:
    """Things and memberships of the moment, by listings: ten thousand devices are forty calls a listing.

    Attributes:
        things: Name of each thing that carries the registry's mark to its type and attributes.
        members: Thing group to the names in it.
    """

    things: dict[str, dict[str, Any]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, owner: str, groups: tuple[str, ...], iot: Any) -> "Inventory":
        """List what belongs to a registry.

        Args:
            owner: Value of the mark: the registry's thing group.
            groups: The thing groups to look into; one that is gone has no members.
            iot: A boto3 IoT client.

        Raises:
            AwsCallError: A call was refused.
        """
        found = cls()
        with explaining(f"list the devices of {owner}"):
            pages = iot.get_paginator("list_things").paginate(
                attributeName=OWNER, attributeValue=owner, PaginationConfig={"PageSize": PAGE}
            )
            found.things = {thing["thingName"]: thing for page in pages for thing in page["things"]}
        for group in groups:
            found.members[group] = set()
            with explaining(f"list the members of {group}"), ignoring(GONE):
                pages = iot.get_paginator("list_things_in_thing_group").paginate(
                    thingGroupName=group, PaginationConfig={"PageSize": PAGE}
                )
                found.members[group] = {name for page in pages for name in page["things"]}
        return found

    def is_settled(self, device: str, group: str, thing_type: str) -> bool:
        """Whether a device has its type and mark, and is in its ring and no other."""
        thing = self.things.get(device)
        return (
            thing is not None
            and thing.get("thingTypeName") == thing_type
            and [name for name, members in self.members.items() if device in members] == [group]
        )


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
        if not self._each(wanted, lambda name: self._register(name, devices[name], registry, former_group, found)):
            return False
        unlisted = [
            name
            for name, thing in found.things.items()
            if name not in devices and CLAIMED not in thing.get("attributes", {})
        ]
        return self._each(sorted(unlisted), lambda name: self._remove(name, registry))

    def delete(self, registry: Registry) -> bool:
        """Take away every device of the registry, and the certificates that only its policy leads to.

        Things that are in its groups without its mark are somebody else's: they leave the groups, nothing more.

        Returns:
            Whether all is done; if not, the time was over and the next call goes on.

        Raises:
            AwsCallError: A call was refused; the text names the device.
            PolicyInUseError: The policy is attached to what is not the registry's, so that it could not be deleted.
        """
        with explaining(f"look what policy {registry.policy} is attached to"):
            check_targets(registry.policy, self._iot)
        found = Inventory.read(registry.group, registry.groups, self._iot)
        members = {name for names in found.members.values() for name in names}
        if not self._each(sorted(members - found.things.keys()), lambda name: self._dismiss(name, registry)):
            return False
        if not self._each(sorted(found.things), lambda name: self._remove(name, registry)):
            return False
        with explaining(f"delete the certificates of policy {registry.policy} without a thing"):
            delete_unattached(registry.policy, self._iot, self._is_registered)
        return True

    def _each(self, names: Sequence[str], act: Callable[[str], None]) -> bool:
        return each_in_time(self._deadline, names, act, workers=WORKERS)

    def _register(
        self, device: str, group: str, registry: Registry, former_group: str | None, before: Inventory
    ) -> None:
        """Bring one thing to its type, mark and ring."""
        with explaining(f"register device {device}"):
            found = before.things.get(device) or self._create(device, registry)
            if found is not None:
                self._take_in(device, found, registry, former_group)
            for other in registry.groups:
                if other != group and (found is not None or device in before.members[other]):
                    with ignoring(GONE):
                        self._iot.remove_thing_from_thing_group(thingGroupName=other, thingName=device)
            self._iot.add_thing_to_thing_group(thingGroupName=group, thingName=device)

    def _create(self, device: str, registry: Registry) -> dict[str, Any] | None:
        """Make a thing that the listing lacks; where another one has its name, give that, as it is described.

        The call succeeds for one that is the same already, too.
        """
        try:
            self._iot.create_thing(
                thingName=device,
                thingTypeName=registry.thing_type,
                attributePayload={"attributes": {OWNER: registry.group}},
            )
        except ClientError as exc:
            if error_code(exc) != "ResourceAlreadyExistsException":
                raise
            return self._describe(device)
        return None

    def _take_in(self, device: str, found: dict[str, Any], registry: Registry, former_group: str | None) -> None:
        owner = found.get("attributes", {}).get(OWNER)
        if owner not in (None, registry.group, former_group):
            raise OwnershipError(
                f"device {device} must belong to one registry, got one of thing group {owner}; "
                f"remove it there before it is added to {registry.group}"
            )
        if owner == registry.group and found.get("thingTypeName") == registry.thing_type:
            return
        marks = {OWNER: registry.group, **({ADOPTED: found.get("thingTypeName") or UNTYPED} if owner is None else {})}
        self._iot.update_thing(
            thingName=device,
            thingTypeName=registry.thing_type,
            attributePayload={"attributes": marks, "merge": True},
        )

    def _remove(self, device: str, registry: Registry) -> None:
        """Delete one thing with all that hangs on it; a step that has nothing left to do is skipped."""
        with explaining(f"remove device {device}"):
            found = self._describe(device)
            attributes = (found or {}).get("attributes", {})
            if found is not None and attributes.get(OWNER) != registry.group:
                self._leave(device, registry.groups)
                return
            release(device, registry.policy, self._iot, self._is_registered, keep=ADOPTED in attributes)
            if ADOPTED in attributes:
                self._let_go(device, registry, attributes[ADOPTED])
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

    def _dismiss(self, device: str, registry: Registry) -> None:
        with explaining(f"let {device} leave the groups of {registry.group}"):
            self._leave(device, registry.groups)
            LOG.info("%s left the groups: it is not on the register", device)

    def _leave(self, device: str, groups: Sequence[str]) -> None:
        for group in groups:
            # InvalidRequestException: a dynamic group, which lets go of the thing by itself.
            with ignoring(GONE, "InvalidRequestException"):
                self._iot.remove_thing_from_thing_group(thingGroupName=group, thingName=device)

    def _let_go(self, device: str, registry: Registry, former_type: str) -> None:
        """Leave a thing as it was found."""

        def leave(**of_type: Any) -> None:
            # An empty value takes an attribute away.
            payload = {"attributes": {OWNER: "", ADOPTED: ""}, "merge": True}
            self._iot.update_thing(thingName=device, attributePayload=payload, **of_type)
            LOG.info("let go of thing %s, which was there before", device)

        self._leave(device, registry.groups)
        if former_type != UNTYPED:
            # A thing without a type has three attributes at most, so that one with more needs its own again.
            with ignoring(GONE, "InvalidRequestException"):  # deleted or deprecated meanwhile
                leave(thingTypeName=former_type)
                return
        with ignoring(GONE):
            leave(removeThingType=True)

    def _is_registered(self, device: str) -> bool:
        return OWNER in (self._describe(device) or {}).get("attributes", {})

    def _describe(self, device: str) -> dict[str, Any] | None:
        return describe(self._iot.describe_thing, thingName=device)


handler = answering(on_event, is_complete)
