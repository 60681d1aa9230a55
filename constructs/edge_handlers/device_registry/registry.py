"""The registry as the stack describes it."""

import re
from dataclasses import dataclass

from edge_handlers.custom_resource import Properties

# Thing names: `[a-zA-Z0-9:_-]+`, 128 at most (IoT API); Greengrass takes 124 bytes of them.
THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")


@dataclass(frozen=True)
class Registry:
    """The properties of the custom resource.

    Args:
        group: Thing group of all devices; it must exist.
        thing_type: Thing type of all devices; it must exist.
        policy: IoT policy of the devices' certificates.
        devices: Thing names, without repetitions.
    """

    group: str
    thing_type: str
    policy: str
    devices: tuple[str, ...]

    @classmethod
    def of(cls, properties: Properties) -> "Registry":
        """Read ThingGroupName, ThingTypeName, PolicyName and Devices.

        Raises:
            ValueError: One is missing, or a device's name cannot be a core device's.
        """
        registry = cls(
            group=properties.text("ThingGroupName"),
            thing_type=properties.text("ThingTypeName"),
            policy=properties.text("PolicyName"),
            devices=properties.texts("Devices"),
        )
        wrong = [name for name in registry.devices if not THING_NAME.fullmatch(name)]
        if wrong:
            raise ValueError(
                f"{properties.where}.Devices must be names of 1 to 124 letters, digits, ':', '_' or '-', got {wrong}"
            )
        return registry

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing group."""
        return f"registry-{self.group}"
