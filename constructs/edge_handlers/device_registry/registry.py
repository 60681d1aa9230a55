"""The registry as the stack describes it, and the list of devices that it points to."""

import json
import re
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.device_list import DeviceList

# Thing names: `[a-zA-Z0-9:_-]+`, 128 at most (IoT API); Greengrass takes 124 bytes of them.
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")


@dataclass(frozen=True)
class Registry:
    """The properties of the custom resource.

    Args:
        group: Thing group of the ring `all`; it names the registry.
        rings: Ring to its thing group; they must exist.
        thing_type: Thing type of all devices; it must exist.
        policy: IoT policy of the devices' certificates.
        listing: Where the list of devices lies.
    """

    group: str
    rings: dict[str, str]
    thing_type: str
    policy: str
    listing: DeviceList

    @classmethod
    def of(cls, properties: Properties) -> "Registry":
        """Read ThingGroupName, Rings, ThingTypeName, PolicyName, ListBucket, ListKey and ListSha256.

        Raises:
            ValueError: One is missing or has another form.
        """
        rings = properties.json_object("Rings")
        group = properties.text("ThingGroupName")
        if group not in rings.values() or not all(isinstance(name, str) and name for name in rings.values()):
            raise ValueError(
                f"{properties.where}.Rings must map rings to thing groups, {group} among them, got {rings}"
            )
        return cls(
            group=group,
            rings=rings,
            thing_type=properties.text("ThingTypeName"),
            policy=properties.text("PolicyName"),
            listing=DeviceList.of(properties),
        )

    def properties(self) -> dict[str, str]:
        """Write what `of` reads."""
        return {
            "ThingGroupName": self.group,
            "Rings": json.dumps(self.rings),
            "ThingTypeName": self.thing_type,
            "PolicyName": self.policy,
            **self.listing.properties(),
        }

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
