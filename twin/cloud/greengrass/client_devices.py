"""Client devices: which things may discover which core device; the API that says so.

What AWS documents is kept to: the service model, and "Associate client devices" of the Greengrass V2 developer guide.
It leaves open what a core must be (here: a thing, so that a fleet can be described before its devices have joined),
which codes the entries' errors have, and how many associations a core may have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ministack.core.responses import AccountRegionScopedDict
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.aws.protocol import Answer, Call, NotFoundError, Route, page
from twin.cloud.aws.shapes import read_request
from twin.cloud.greengrass.components import SERVICE
from twin.cloud.ministack.patches import patch

ASSOCIATIONS: AccountRegionScopedDict = AccountRegionScopedDict()
"""Core's thing name → client device's thing name → when it was associated, s."""

CONNECTIVITY: AccountRegionScopedDict = AccountRegionScopedDict()
"""Core's thing name → its last UpdateConnectivityInfo: `entries` (Id, HostAddress, PortNumber, Metadata), `version`."""

AUTHORITIES: AccountRegionScopedDict = AccountRegionScopedDict()
"""Core's thing name → certificates of its authorities, PEM, the newest first."""

CORE_LIMIT = 10_000
"""Associations of one core; the twin's own bound, as AWS publishes none."""

Errors = list[dict[str, str]]


def associate(core: str, things: list[str]) -> Errors:
    """Let things discover a core device; one that may already keeps the time since when.

    Args:
        core: Thing name of the core device.
        things: Thing names of the client devices.

    Returns:
        `errorEntries`: those that were left out, with code and message.

    Raises:
        NotFoundError: If the core is no thing.
    """
    _check_core(core)
    found, errors = dict(ASSOCIATIONS.get(core) or {}), []
    for thing in things:
        if thing not in iot._things:
            errors.append(_error(thing, "ResourceNotFoundException", f"thing must exist, got {thing}: create it first"))
        elif thing not in found and len(found) >= CORE_LIMIT:
            text = f"a core device must have at most {CORE_LIMIT} client devices, got one more: disassociate others"
            errors.append(_error(thing, "ServiceQuotaExceededException", text))
        else:
            found.setdefault(thing, CLOCK.time())
    if found:
        ASSOCIATIONS[core] = found
    return errors


def disassociate(core: str, things: list[str]) -> Errors:
    """Take the right to discover a core device away; what was not associated is passed over.

    Args:
        core: Thing name of the core device.
        things: Thing names of the client devices.

    Returns:
        `errorEntries`: none.

    Raises:
        NotFoundError: If the core is no thing.
    """
    _check_core(core)
    _keep(core, lambda thing: thing not in things)
    return []


def associated_with(core: str) -> dict[str, float]:
    """The client devices of a core device and since when, by name; none of one that nobody associated."""
    return dict(sorted((ASSOCIATIONS.get(core) or {}).items()))


def cores_of(thing: str) -> list[str]:
    """The core devices that a client device may discover, by name."""
    return sorted(core for core, things in ASSOCIATIONS.items() if thing in things)


@patch(
    "services.iot._delete_thing",
    why="a deleted thing is nobody's client device and has none: a new one of its name must not inherit them",
    signature="(name, expected_version=None)",
)
def _delete_thing(delete: Callable[..., Any], name: str, expected_version: Any = None) -> Any:
    answer = delete(name, expected_version)
    if name not in iot._things:
        for store in (ASSOCIATIONS, CONNECTIVITY, AUTHORITIES):
            store.pop(name, None)
        for core in cores_of(name):
            _keep(core, lambda thing: thing != name)
    return answer


def _keep(core: str, wanted: Callable[[str], bool]) -> None:
    kept = {thing: since for thing, since in (ASSOCIATIONS.get(core) or {}).items() if wanted(thing)}
    if kept:
        ASSOCIATIONS[core] = kept
    else:
        ASSOCIATIONS.pop(core, None)


def _check_core(core: str) -> None:
    if core not in iot._things:
        raise NotFoundError("core device", core)


def _error(thing: str, code: str, message: str) -> dict[str, str]:
    return {"thingName": thing, "code": code, "message": message}


def _things(call: Call, operation: str) -> list[str]:
    return [entry["thingName"] for entry in read_request(SERVICE, operation, call.body).get("entries") or []]


async def _associate(call: Call) -> Answer:
    things = _things(call, "BatchAssociateClientDeviceWithCoreDevice")
    return 200, {"errorEntries": associate(call.names[0], things)}


async def _disassociate(call: Call) -> Answer:
    things = _things(call, "BatchDisassociateClientDeviceFromCoreDevice")
    return 200, {"errorEntries": disassociate(call.names[0], things)}


async def _list(call: Call) -> Answer:
    _check_core(call.names[0])
    found = associated_with(call.names[0]).items()
    entries = [{"thingName": thing, "associationTimestamp": since} for thing, since in found]
    return 200, page("associatedClientDevices", entries, call.query)


_CORE = "/greengrass/v2/coreDevices/([^/]+)"

ROUTES: list[Route] = [
    ("POST", _CORE + "/associateClientDevices", _associate),
    ("POST", _CORE + "/disassociateClientDevices", _disassociate),
    ("GET", _CORE + "/associatedClientDevices", _list),
]
