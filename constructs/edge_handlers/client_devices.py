"""Custom resource: which client devices may discover which core devices.

Work is what Greengrass's lists differ in from the stage's, so a call that runs out of time is simply made again. An
association is ours if its thing carries the stage's mark, or if the list before had it; others are left alone.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering, still_asked_s
from edge_handlers.custom_resource import Contract, Key, Properties, RequestType, parse
from edge_handlers.device_list import OWNER, DeviceList
from edge_handlers.service_client import (
    GONE,
    AwsCallError,
    Deadline,
    client,
    describe,
    each_in_time,
    explaining,
    unless_absent,
)

LOG = logging.getLogger(__name__)
WORKERS = 4
_TAKE_BACK = "batch_disassociate_client_device_from_core_device"
#: Entries of a call and of a page (Greengrass V2 API).
BATCH = 100
_PAGE = 250
#: What an answer to CloudFormation, of 4 kB, has room for.
_SHOWN = 20


class AssociationError(ValueError):
    """Greengrass took a call, and refused entries in it."""


@dataclass(frozen=True)
class Associations(Contract):
    """The associations as the stack describes them.

    Args:
        group: Value of the mark on the stage's client devices: their thing group.
        listing: Where the list lies: core device to its client devices, with spaces between them.
    """

    TYPE = "Custom::ClientDeviceAssociations"

    group: Annotated[str, Key("ThingGroupName")]
    listing: DeviceList

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing group."""
        return f"associations-{self.group}"

    def read(self, s3: Any) -> dict[str, set[str]]:
        """Read the list.

        Args:
            s3: A boto3 S3 client.

        Returns:
            Core device to its client devices.

        Raises:
            ValueError: The list cannot be used.
            AwsCallError: S3 refused the call.
        """
        return {core: set(names.split()) for core, names in self.listing.read(s3).items()}


def listed(associations: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The list as it is written to the file.

    Args:
        associations: Core device to its client devices.
    """
    return {core: " ".join(sorted(names)) for core, names in associations.items()}


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Check what is asked for; is_complete does it, in as many calls as it takes."""
    request = parse(event)
    wanted = Associations.of(request.properties)
    return {"PhysicalResourceId": request.known_id if request.type is RequestType.DELETE else wanted.physical_id}


def is_complete(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one poll: associate and disassociate for a while; the waiter asks again until all is done."""
    request = parse(event)
    properties = Associations.of(request.properties)
    if still_asked_s(event) > 0:
        # A cancelled event's last question may be associating what is to be taken back.
        return {"IsComplete": False}
    work = ClientDevices(client("greengrassv2"), client("iot"), properties.group, Deadline.of(context, share=0.8))
    if request.type is RequestType.DELETE:
        # Without its list nothing can be taken back: the things go next, and what is left of them with the next list.
        return {"IsComplete": work.reconcile({}, _former(request.properties), only_marked=True)}
    wanted = properties.read(client("s3"))
    if not work.reconcile(wanted, _former(request.old_properties)):
        return {"IsComplete": False}
    data = {"Count": str(sum(map(len, wanted.values()))), "Waiting": " ".join(sorted(work.unknown)[:_SHOWN])}
    return {"IsComplete": True, "Data": data}


def _former(properties: Properties) -> dict[str, set[str]]:
    """The list of properties that may be of an older release, and whose file may be gone; then it is empty."""
    try:
        return Associations.of(properties).read(client("s3"))
    except (ValueError, AwsCallError) as exc:
        if properties.values:
            LOG.warning("the former list cannot be read, so what it alone knows stays: %s", exc)
        return {}


class ClientDevices:
    """The calls behind the custom resource, each safe to repeat.

    Args:
        greengrass: A boto3 greengrassv2 client.
        iot: A boto3 IoT client.
        group: Value of the mark on the stage's client devices.
        deadline: Checked before each core and each call with entries.
    """

    def __init__(self, greengrass: Any, iot: Any, group: str, deadline: Deadline) -> None:
        self._greengrass = greengrass
        self._iot = iot
        self._group = group
        self._deadline = deadline
        #: Cores that Greengrass did not know, to which devices should have been associated.
        self.unknown: set[str] = set()

    def reconcile(
        self, wanted: Mapping[str, set[str]], former: Mapping[str, set[str]], *, only_marked: bool = False
    ) -> bool:
        """Bring every core to its list.

        Args:
            wanted: Core device to its client devices.
            former: The list before; its cores lose what is ours and no longer listed.
            only_marked: Whether an entry of the former list is ours only while its thing is marked. A
                replacement's successor marks the things anew, and the Delete that follows leaves them to it.

        Returns:
            Whether all is done; if not, the time was over and the next call goes on.

        Raises:
            AssociationError: Entries were refused; the text names them.
            AwsCallError: A call was refused; the text names the core.
        """
        marked = self._marked()

        def settle(core: str) -> None:
            before = set() if only_marked else former.get(core, set())
            self._settle(core, wanted.get(core, set()), lambda thing: thing in marked or thing in before)

        return each_in_time(self._deadline, sorted({*wanted, *former}), settle, workers=WORKERS)

    def _marked(self) -> set[str]:
        with explaining(f"list the client devices of {self._group}"):
            pages = self._iot.get_paginator("list_things").paginate(
                attributeName=OWNER, attributeValue=self._group, PaginationConfig={"PageSize": _PAGE}
            )
            return {thing["thingName"] for page in pages for thing in page["things"]}

    def _settle(self, core: str, wanted: set[str], ours: Callable[[str], bool]) -> None:
        with explaining(f"associate client devices with core device {core}"):
            there = self._associated(core)
            if there is not None:
                missing = sorted(wanted - there)
                surplus = [thing for thing in sorted(there - wanted) if ours(thing)]
                if self._call(_TAKE_BACK, core, surplus) and self._call(
                    "batch_associate_client_device_with_core_device", core, missing
                ):
                    return
        if wanted:
            LOG.warning("%s is no core device yet: associate its client devices when it has joined", core)
            self.unknown.add(core)

    def _associated(self, core: str) -> set[str] | None:
        """The client devices of a core; None where Greengrass knows no such core."""
        with unless_absent():
            pages = self._greengrass.get_paginator("list_client_devices_associated_with_core_device").paginate(
                coreDeviceThingName=core, PaginationConfig={"PageSize": BATCH}
            )
            return {each["thingName"] for page in pages for each in page.get("associatedClientDevices", [])}
        return None

    def _call(self, operation: str, core: str, things: list[str]) -> bool:
        """Call with up to a hundred entries at a time; False where Greengrass knows no such core."""
        for start in range(0, len(things), BATCH):
            self._deadline.check(f"go on with {core}: {start} of {len(things)} done")
            entries = [{"thingName": thing} for thing in things[start : start + BATCH]]
            answer = describe(getattr(self._greengrass, operation), coreDeviceThingName=core, entries=entries)
            if answer is None:
                return False
            refused = answer.get("errorEntries", [])
            if operation == _TAKE_BACK:
                # A thing that is gone is nobody's client device any more.
                refused = [each for each in refused if each.get("code") != GONE]
            if refused:
                told = "; ".join(f"{each.get('thingName')}: {each.get('message')}" for each in refused[:5])
                raise AssociationError(
                    f"client devices of core device {core} must be accepted, {len(refused)} of {len(entries)} were "
                    f"refused: {told}; mend them and deploy again"
                )
        return True


handler = answering(on_event, is_complete)
