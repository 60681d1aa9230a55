"""Switches fleet indexing on, and takes claim certificates and indexing away with the last fleet.

Permissions:
    iot:GetIndexingConfiguration, iot:UpdateIndexingConfiguration, iot:ListThingGroups,
    iot:ListPrincipalThings, iot:ListAttachedPolicies
                    `*` (they act on the account or on principals, which have no resource type)
    iot:ListTargetsForPolicy
                    arn:<partition>:iot:<region>:<account>:policy/<PolicyName>
    iot:DetachPolicy, iot:UpdateCertificate, iot:DeleteCertificate
                    arn:…:cert/*

Fleet indexing is one setting for all of an account's things in a region. It is switched on where it is off and never
changed otherwise; and off again only by the fleet that switched it on, and only when no other fleet is left.
"""

import logging
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.device_registry.certificates import delete_unattached
from edge_handlers.service_client import explaining

LOG = logging.getLogger(__name__)
OFF = "OFF"
THINGS = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS"}
GROUPS = {"thingGroupIndexingMode": "ON"}
SWITCHED_ON, FOUND_ON = "switched-on", "found-on"


@dataclass(frozen=True)
class FleetSettings:
    """The properties.

    Attributes:
        policy: The claim certificates' IoT policy.
        group: The fleet's thing group.
        rings: The thing groups of its rings.
        prefix: What the thing groups of all fleets begin with.
    """

    policy: str
    group: str
    rings: tuple[str, ...]
    prefix: str

    @classmethod
    def of(cls, properties: Properties) -> "FleetSettings":
        """Read the properties.

        Raises:
            ValueError: One is missing.
        """
        return cls(
            policy=properties.text("PolicyName"),
            group=properties.text("ThingGroupName"),
            rings=properties.texts("RingGroupNames"),
            prefix=properties.text("GroupPrefix"),
        )


def switch_on(settings: FleetSettings, iot: Any) -> str:
    """Switch fleet indexing on unless it is.

    Args:
        settings: The fleet.
        iot: A boto3 IoT client.

    Returns:
        The physical id, which remembers who switched it on.

    Raises:
        AwsCallError: A call was refused.
    """
    with explaining("switch fleet indexing on"):
        found = iot.get_indexing_configuration().get("thingIndexingConfiguration", {})
        if found.get("thingIndexingMode", OFF) != OFF:
            return f"{settings.group}/{FOUND_ON}"
        iot.update_indexing_configuration(thingIndexingConfiguration=THINGS, thingGroupIndexingConfiguration=GROUPS)
    return f"{settings.group}/{SWITCHED_ON}"


def take_away(settings: FleetSettings, physical_id: str, iot: Any) -> None:
    """Delete the claim certificates, and switch indexing off if it was this fleet's and nobody else's.

    Args:
        settings: The fleet.
        physical_id: From `switch_on`.
        iot: A boto3 IoT client.

    Raises:
        AwsCallError: A call was refused.
    """
    with explaining(f"delete the claim certificates of policy {settings.policy}"):
        deleted = delete_unattached(settings.policy, iot)
    LOG.info("deleted %d claim certificates", deleted)
    if not physical_id.endswith(f"/{SWITCHED_ON}"):
        return
    with explaining("switch fleet indexing off"):
        pages = iot.get_paginator("list_thing_groups").paginate(namePrefixFilter=settings.prefix)
        groups = {group["groupName"] for page in pages for group in page["thingGroups"]}
        others = groups - {settings.group, *settings.rings}
        if others:
            LOG.info("fleet indexing stays on for %s", ", ".join(sorted(others)))
            return
        iot.update_indexing_configuration(
            thingIndexingConfiguration={"thingIndexingMode": OFF},
            thingGroupIndexingConfiguration={"thingGroupIndexingMode": OFF},
        )
