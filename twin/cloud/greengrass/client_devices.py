"""Client devices: which may discover which core device, what a core asks about them and tells them, and discovery.

What AWS documents is kept to: the service model, "Associate client devices", "Greengrass discovery RESTful API" and
"Troubleshooting client devices" of the Greengrass V2 developer guide. It leaves open what a core must be (here: a
thing, so that a fleet can be described before its devices have joined), which codes the entries' errors have, how many
associations a core may have, the paths of PutCertificateAuthorities and of the two calls that verify, which only AWS's
components make, and whether AWS turns a device away that is not associated: here it does.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import uuid
from collections.abc import Callable
from typing import Any

from cryptography import x509
from ministack.core.responses import AccountRegionScopedDict
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.aws.protocol import AccessDeniedError, Answer, Call, InvalidRequestError, NotFoundError, Route, page
from twin.cloud.aws.shapes import check_request, read_request
from twin.cloud.greengrass.components import SERVICE
from twin.cloud.iot.listener import DeviceIdentity
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


ENTRIES, CERTIFICATES = 50, 5
"""Of one core device, at most; the twin's own bounds."""

Document = dict[str, Any]


class DiscoveryError(Exception):
    """A refused discovery, whose body is unlike that of all other calls.

    Args:
        status: HTTP status.
        document: The body.
    """

    def __init__(self, status: int, document: Document) -> None:
        super().__init__(json.dumps(document))
        self.status, self.document = status, document


def discover(identity: DeviceIdentity, thing: str) -> Document:
    """The core devices that a client device may connect to.

    Raises:
        DiscoveryError: 403 without the right to discover as this thing, 404 where nothing is found.
    """
    arn = f"arn:aws:iot:{identity.region}:{identity.account}:thing/{thing}"
    if thing not in identity.things() or not identity.allows("greengrass:Discover", arn):
        raise DiscoveryError(403, {"message": None, "traceId": str(uuid.uuid4())})
    groups = [
        {
            "GGGroupId": f"greengrassV2-coreDevice-{core}",
            "Cores": [{"thingArn": iot._thing_arn(core), "Connectivity": CONNECTIVITY[core]["entries"]}],
            "CAs": AUTHORITIES[core],
        }
        for core in cores_of(thing)
        # A core that runs no broker, or no Auth component, is none to connect to.
        if (CONNECTIVITY.get(core) or {}).get("entries") and AUTHORITIES.get(core)
    ]
    if not groups:
        raise DiscoveryError(404, {"errorMessage": "The thing provided for discovery was not found"})
    return {"GGGroups": groups}


def _put_authorities(identity: DeviceIdentity, body: bytes) -> Document:
    _require(identity, "PutCertificateAuthorities")
    certificates = _document(body).get("coreDeviceCertificates")
    if not isinstance(certificates, list) or not 1 <= len(certificates) <= CERTIFICATES:
        raise InvalidRequestError([("coreDeviceCertificates", f"must be 1 to {CERTIFICATES} certificates")])
    for number, text in enumerate(certificates):
        try:
            x509.load_pem_x509_certificate(str(text).encode())
        except ValueError as exc:
            raise InvalidRequestError([(f"coreDeviceCertificates[{number}]", f"must be a PEM: {exc}")]) from exc
    for core in identity.things():
        AUTHORITIES[core] = certificates
    return {}


def _verify_identity(identity: DeviceIdentity, body: bytes) -> Document:
    _require(identity, "VerifyClientDeviceIdentity")
    try:
        der = ssl.PEM_cert_to_DER_cert(str(_document(body).get("clientDeviceCertificate")))
    except ValueError as exc:
        raise InvalidRequestError([("clientDeviceCertificate", f"must be a certificate as PEM: {exc}")]) from exc
    certificate_id = hashlib.sha256(der).hexdigest()
    if (iot._certificates.get(certificate_id) or {}).get("status") != "ACTIVE":
        raise NotFoundError("active certificate", certificate_id)
    return {"clientDeviceCertificateId": certificate_id}


def _verify_association(identity: DeviceIdentity, body: bytes) -> Document:
    document = _document(body)
    thing, certificate_id = (
        str(document.get(key) or "") for key in ("clientDeviceThingName", "clientDeviceCertificateId")
    )
    _require(identity, "VerifyClientDeviceIoTCertificateAssociation", thing)
    record = iot._certificates.get(certificate_id) or {}
    if thing not in map(iot._thing_name_from_arn, record.get("attachedThings", [])):
        raise NotFoundError("thing with this certificate", f"{thing} with {certificate_id or 'none'}")
    if not any(thing in associated_with(core) for core in identity.things()):
        raise NotFoundError("client device of this core device", f"{thing}: associate it")
    return {}


def _get_connectivity(identity: DeviceIdentity, core: str) -> Document:
    _require_own(identity, "GetConnectivityInfo", core)
    return connectivity(core)


def _update_connectivity(identity: DeviceIdentity, core: str, body: bytes) -> Document:
    _require_own(identity, "UpdateConnectivityInfo", core)
    return update_connectivity(core, body)


def connectivity(core: str) -> Document:
    """The answer of GetConnectivityInfo; an empty list for a core that has told nothing."""
    return {"ConnectivityInfo": (CONNECTIVITY.get(core) or {}).get("entries") or []}


def update_connectivity(core: str, body: bytes) -> Document:
    """Replace what clients are told of a core device's addresses.

    Raises:
        InvalidRequestError: The request breaks a rule of the service model, or has too many entries.
        NotFoundError: There is no such thing.
    """
    entries = _document(body).get("ConnectivityInfo")
    check_request(SERVICE, "UpdateConnectivityInfo", {"ConnectivityInfo": entries})
    assert isinstance(entries, list)  # noqa: S101 - checked by the model
    if len(entries) > ENTRIES:
        raise InvalidRequestError([("ConnectivityInfo", f"must have at most {ENTRIES} entries, got {len(entries)}")])
    if core not in iot._things:
        raise NotFoundError("core device", core)
    version = str(uuid.uuid4())
    CONNECTIVITY[core] = {"entries": entries, "version": version}
    return {"Version": version, "Message": "Connectivity Info Updated"}


def _document(body: bytes) -> Document:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidRequestError([("body", "must be a JSON object")])
    return document


def _require(identity: DeviceIdentity, operation: str, thing: str = "") -> None:
    arn = f"arn:aws:iot:{identity.region}:{identity.account}:thing/{thing}" if thing else "*"
    if not identity.allows(f"greengrass:{operation}", arn):
        raise AccessDeniedError(f"an IoT policy must allow greengrass:{operation} on {arn}: attach one that does")


def _require_own(identity: DeviceIdentity, operation: str, core: str) -> None:
    if core not in identity.things():
        raise AccessDeniedError(f"certificate must be attached to thing {core}: attach it, or ask as its own thing")
    _require(identity, operation, core)


_DISCOVER = re.compile(r"/greengrass/discover/thing/([^/]+)")
_CONNECTIVITY = "/greengrass/things/([^/]+)/connectivityInfo"

_CALLS: list[tuple[str, re.Pattern[str], Callable[..., Document]]] = [
    ("GET", _DISCOVER, lambda identity, thing, _body: discover(identity, thing)),
    ("GET", re.compile(_CONNECTIVITY), lambda identity, core, _body: _get_connectivity(identity, core)),
    ("PUT", re.compile(_CONNECTIVITY), _update_connectivity),
    ("PUT", re.compile("/greengrass/v2/certificateAuthorities"), _put_authorities),
    ("POST", re.compile("/greengrass/v2/verifyClientDeviceIdentity"), _verify_identity),
    ("POST", re.compile("/greengrass/v2/verifyClientDeviceIoTCertificateAssociation"), _verify_association),
]


def is_discovery(path: str) -> bool:
    """Whether a path is that of discovery, which answers nothing at all to a certificate that is not active."""
    return _DISCOVER.fullmatch(path) is not None


def answer(identity: DeviceIdentity, method: str, path: str, body: bytes) -> Document | None:
    """The answer to a call of a client device, or of a core device about them; None for any other path.

    Args:
        identity: Of the certificate.
        method: HTTP method.
        path: Decoded.
        body: As received.

    Raises:
        DiscoveryError, AccessDeniedError, InvalidRequestError, NotFoundError: As the calls do.
    """
    for verb, pattern, function in _CALLS:
        if verb == method and (match := pattern.fullmatch(path)):
            return function(identity, *match.groups(), body)
    return None


async def _get(call: Call) -> Answer:
    return 200, connectivity(call.names[0])


async def _update(call: Call) -> Answer:
    return 200, update_connectivity(call.names[0], call.body)


_CORE = "/greengrass/v2/coreDevices/([^/]+)"
ROUTES: list[Route] = [
    ("POST", _CORE + "/associateClientDevices", _associate),
    ("POST", _CORE + "/disassociateClientDevices", _disassociate),
    ("GET", _CORE + "/associatedClientDevices", _list),
    ("GET", _CONNECTIVITY, _get),
    ("PUT", _CONNECTIVITY, _update),
]

STORES = {
    "greengrass_client_devices": ASSOCIATIONS,
    "greengrass_connectivity": CONNECTIVITY,
    "greengrass_authorities": AUTHORITIES,
}
