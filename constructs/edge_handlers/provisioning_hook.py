"""Pre-provisioning hook: which devices may turn a claim certificate into one of their own.

A claim certificate is the same for many devices and may be stolen: it proves nothing. So a device must be on the
register already, under a name made of its serial number, and must not have a certificate yet; nor may its new one be
another's.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_handlers.device_list import OWNER
from edge_handlers.service_client import describe, explaining, quick_client

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.INFO)
PARAMETER = "SerialNumber"
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")
_SHOWN = 80


@dataclass(frozen=True)
class Fleet:
    """Whose devices may join.

    Attributes:
        prefix: A thing's name is the prefix, a hyphen and the serial number.
        group: Thing group of the registry.
        reserved: Thing names that join in another way.
    """

    prefix: str
    group: str
    reserved: frozenset[str] = frozenset()


class NotAllowedError(Exception):
    """The device may not join; the text says why, for the log only: the device is not told."""


def on_request(event: Any, context: Any) -> dict[str, bool]:  # noqa: ARG001 (Lambda's signature)
    """Answer AWS IoT within its five seconds; an error of AWS's is a no that may be repeated."""
    fleet = Fleet(
        prefix=os.environ["THING_PREFIX"],
        group=os.environ["THING_GROUP"],
        reserved=frozenset(os.environ["RESERVED_THINGS"].split(",")),
    )
    try:
        thing = check(event, fleet, quick_client("iot"))
    except NotAllowedError as exc:
        LOG.warning("refused: %s", exc)
        return {"allowProvisioning": False}
    LOG.info("allowed: %s", thing)
    return {"allowProvisioning": True}


def check(event: object, fleet: Fleet, iot: Any) -> str:
    """Check one request.

    Args:
        event: As AWS IoT sends it (payload version 2020-04-01); whatever the device wrote is in `parameters`.
        fleet: Whose devices may join.
        iot: A boto3 IoT client.

    Returns:
        Name of the thing that the device becomes.

    Raises:
        NotAllowedError: The request is malformed, the device is not on the register or has a certificate, or its new
            certificate is another thing's already.
        AwsCallError: The register could not be read.
    """
    thing, certificate = f"{fleet.prefix}-{_serial(event)}", _certificate(event)
    if thing in fleet.reserved:
        raise NotAllowedError(f"{thing} joins without a claim: nobody may take its name")
    with explaining(f"look {thing} up in the register"):
        found = describe(iot.describe_thing, thingName=thing)
        if found is None:
            raise NotAllowedError(
                f"{thing} must be on the register: add it to fleet.devices, or to the list of fleet.file, and deploy"
            )
        owner = (found.get("attributes") or {}).get(OWNER)
        if owner != fleet.group:
            raise NotAllowedError(f"{thing} must belong to the register of {fleet.group}, got {owner!r}")
        principals = iot.list_thing_principals(thingName=thing, maxResults=1)["principals"]
        things = iot.list_principal_things(principal=certificate, maxResults=1)["things"]
    if principals:
        known = principals[0].rpartition("/")[2]
        raise NotAllowedError(
            f"{thing} has the certificate {known[:12]}… already: delete it to let the device join again"
        )
    # AWS IoT does not say that an ownership token is good for one thing only: used twice, two would share a key.
    if things:
        raise NotAllowedError(
            f"{certificate[-64:][:12]}… is the certificate of {things[0]} already: {thing} needs its own"
        )
    return thing


def _certificate(event: object) -> str:
    """ARN of the certificate that the device is to have; it is of the template's account and region."""
    template, identifier = (
        (event.get("templateArn"), event.get("certificateId")) if isinstance(event, Mapping) else (None, None)
    )
    if not isinstance(template, str) or not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):
        raise NotAllowedError(f"certificateId must be 64 hexadecimal digits, got {_shown(identifier)}")
    return f"{template.rpartition(':')[0]}:cert/{identifier}"


def _serial(event: object) -> str:
    if not isinstance(event, Mapping):
        raise NotAllowedError(f"event must be an object, got {type(event).__name__}")
    parameters = event.get("parameters")
    if not isinstance(parameters, Mapping):
        raise NotAllowedError(f"parameters must be an object, got {_shown(parameters)}")
    serial = parameters.get(PARAMETER)
    if not isinstance(serial, str) or not _SERIAL.fullmatch(serial):
        raise NotAllowedError(
            f"parameters.{PARAMETER} must be 1 to 64 letters, digits, _ or -, beginning with a letter or digit, "
            f"got {_shown(serial)}"
        )
    return serial


def _shown(value: object) -> str:
    # repr: what a device sends must not forge lines of the log.
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
