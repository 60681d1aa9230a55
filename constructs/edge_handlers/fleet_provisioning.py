"""Custom resource: fleet indexing, and the claim certificates that must not outlive the fleet.

Fleet indexing is one setting for all of an account's things in a region. It is switched on where it is off and never
changed otherwise; and off again by the last fleet, if a fleet switched it on, whichever that was: the attribute that
the index holds besides what every index does tells so.
"""

import logging
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.certificates import delete_unattached
from edge_handlers.custom_resource import Contract, Key, RequestType, parse, texts
from edge_handlers.device_list import OWNER
from edge_handlers.service_client import client, explaining

LOG = logging.getLogger(__name__)
OFF = "OFF"
#: Devices are found, and counted, by the registry that they belong to; also the mark of an index that a fleet made.
FIELD = {"name": f"attributes.{OWNER}", "type": "String"}
THINGS = {"thingIndexingMode": "REGISTRY", "thingConnectivityIndexingMode": "STATUS", "customFields": [FIELD]}
GROUPS = {"thingGroupIndexingMode": "ON"}


@dataclass(frozen=True)
class FleetSettings(Contract):
    """The fleet.

    Attributes:
        policy: The claim certificates' IoT policy.
        group: The fleet's thing group.
        rings: The thing groups of its rings.
        prefix: What the thing groups of all fleets begin with.
    """

    TYPE = "Custom::FleetProvisioning"

    policy: Annotated[str, Key("PolicyName")]
    group: Annotated[str, Key("ThingGroupName")]
    rings: Annotated[tuple[str, ...], texts("RingGroupNames")]
    prefix: Annotated[str, Key("GroupPrefix")]


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of CloudFormation."""
    request = parse(event)
    settings = FleetSettings.of(request.properties)
    if request.type is RequestType.DELETE:
        # A fleet under another name has taken over: its groups are there, and keep the index on.
        take_away(settings, client("iot"))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": switch_on(settings, client("iot"))}


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


handler = answering(on_event)
