"""What a ring's health check waits for, as the stack describes it."""

import math
import re
from dataclasses import dataclass

from edge_handlers.custom_resource import Properties


@dataclass(frozen=True)
class HealthCheck:
    """The properties of the custom resource.

    Args:
        deployment: Id of the ring's deployment.
        group_arn: The ring's thing group.
        ring: Its name in texts.
        healthy_percentage: Share of the core devices that must run it, 1 to 100 per cent.
        timeout_s: After so long without that share the check fails, s.
        expected: Devices of the ring that must be there, though none of them has reported yet.
    """

    deployment: str
    group_arn: str
    ring: str
    healthy_percentage: int
    timeout_s: int
    expected: tuple[str, ...] = ()

    @classmethod
    def of(cls, properties: Properties) -> "HealthCheck":
        """Read DeploymentId, ThingGroupArn, Ring, HealthyPercentage, TimeoutSeconds and ExpectedDevices.

        Raises:
            ValueError: One is missing or has another form.
        """
        group = properties.text("ThingGroupArn")
        if not re.fullmatch(r"arn:[^:]+:iot:[^:]+:\d{12}:thinggroup/.+", group):
            raise ValueError(f"{properties.where}.ThingGroupArn must be the ARN of a thing group, got {group!r}")
        percentage = properties.integer("HealthyPercentage", minimum=1)
        if percentage > 100:
            raise ValueError(f"{properties.where}.HealthyPercentage must be at most 100, got {percentage}")
        return cls(
            deployment=properties.text("DeploymentId"),
            group_arn=group,
            ring=properties.text("Ring"),
            healthy_percentage=percentage,
            timeout_s=properties.integer("TimeoutSeconds", minimum=1),
            expected=properties.texts("ExpectedDevices"),
        )

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing group: another deployment updates the check in place."""
        return f"health-{self.group_arn.rpartition('/')[2]}"

    def needed(self, devices: int) -> int:
        """How many of so many devices must be healthy."""
        return math.ceil(devices * self.healthy_percentage / 100)

    def __str__(self) -> str:
        return f"deployment {self.deployment} of ring {self.ring}"
