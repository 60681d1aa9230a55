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
changed otherwise; and off again by the last fleet, if a fleet switched it on, whichever that was: the attribute that
the index holds besides what every index does tells so.
"""

import logging
from dataclasses import dataclass
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.device_registry.certificates import delete_unattached
from edge_handlers.device_registry.inventory import OWNER
from edge_handlers.service_client import explaining

LOG = logging.getLogger(__name__)
OFF = "OFF"
#: Devices are found, and counted, by the registry that they belong to; also the mark of an index that a fleet made.
FIELD = {"name": f"attributes.{OWNER}", "type": "String"}
THINGS = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS", "customFields": [FIELD]}
GROUPS = {"thingGroupIndexingMode": "ON"}


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
        The physical id.

    Raises:
        AwsCallError: A call was refused.
    """
    with explaining("switch fleet indexing on"):
        if _indexing(iot).get("thingIndexingMode", OFF) == OFF:
            iot.update_indexing_configuration(thingIndexingConfiguration=THINGS, thingGroupIndexingConfiguration=GROUPS)
    return f"{settings.group}/indexing"


def take_away(settings: FleetSettings, iot: Any) -> None:
    """Delete the claim certificates, and switch indexing off if it was a fleet's and this is the last one.

    Args:
        settings: The fleet.
        iot: A boto3 IoT client.

    Raises:
        AwsCallError: A call was refused.
    """
    with explaining(f"delete the claim certificates of policy {settings.policy}"):
        deleted = delete_unattached(settings.policy, iot)
    LOG.info("deleted %d claim certificates", deleted)
    with explaining("switch fleet indexing off"):
        fields = [field.get("name") for field in _indexing(iot).get("customFields", [])]
        if FIELD["name"] not in fields:
            LOG.info("fleet indexing stays as it is: no fleet switched it on")
            return
        pages = iot.get_paginator("list_thing_groups").paginate(namePrefixFilter=settings.prefix)
        groups = {group["groupName"] for page in pages for group in page["thingGroups"]}
        if others := groups - {settings.group, *settings.rings}:
            LOG.info("fleet indexing stays on for %s", ", ".join(sorted(others)))
            return
        iot.update_indexing_configuration(
            thingIndexingConfiguration={"thingIndexingMode": OFF},
            thingGroupIndexingConfiguration={"thingGroupIndexingMode": OFF},
        )


def _indexing(iot: Any) -> dict[str, Any]:
    found: dict[str, Any] = iot.get_indexing_configuration().get("thingIndexingConfiguration", {})
    return found
