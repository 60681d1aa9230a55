"""What IoT Core holds of a registry: read by listings, so that ten thousand devices are forty calls a listing."""

from dataclasses import dataclass, field
from typing import Any

from edge_handlers.service_client import explaining, ignoring

OWNER = "edgewright-registry"
#: Set on a thing that was there before its registry: the registry lets go of it instead of deleting it.
ADOPTED = "edgewright-adopted"
#: Set by the provisioning template on what joined by claim: no list holds it, so no list takes it away.
CLAIMED = "edgewright-claimed"
GONE = "ResourceNotFoundException"
PAGE = 250


@dataclass
class Inventory:
    """Things and memberships of the moment.

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
