"""What AWS IoT's registry refuses, filters or offers, and MiniStack does not: versions, limits, joining by request.

And for the operator of a simulated fleet many things at once, registered and taken away by the same functions of
MiniStack as CreateThing, CreateCertificateFromCsr, AttachPolicy, AttachThingPrincipal and AddThingToThingGroup.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from ministack.core import x509_utils
from ministack.core.responses import error_response_json, request_scope
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.greengrass.core_devices import CORE_DEVICES
from twin.cloud.ministack.patches import patch
from twin.cloud_process import Settings

POLICY_VERSIONS = 5
"""Versions that a policy may have at once (AWS IoT Core quotas; CreatePolicyVersion)."""

POLICY_CHARACTERS = 2048
"""Of a policy's document, white space aside (AWS IoT Core quotas)."""

ATTRIBUTES = 3
"""Of a thing without a type (AWS IoT Core quotas)."""

EXCLUSIVE = "attachedExclusively"
THING = "iot:connection.thing"
"""What the policy variables of a thing begin with, in lower case."""

Answer = Any
"""Status, headers and body."""
Call = dict[str, Any]


@patch(
    "services.iot._now_epoch",
    why="what is made has the twin's time: a certificate's is compared with the time of a device's report",
    signature="()",
)
def _now_epoch(_by_ministack: Callable[[], float]) -> float:
    return CLOCK.time()


@patch(
    "services.iot._create_policy_version",
    why="a policy has at most five versions: a sixth is refused until one is deleted",
    signature="(name, payload, qp)",
)
def _create_policy_version(create: Callable[..., Answer], name: str, payload: Call, query: Call) -> Answer:
    if refusal := _too_long(payload):
        return refusal
    policy = iot._policies.get(name)
    if policy is not None and len(policy["versions"]) >= POLICY_VERSIONS:
        text = f"The policy {name} already has the maximum number of versions ({POLICY_VERSIONS})"
        return error_response_json("VersionsLimitExceededException", text, 409)
    return create(name, payload, query)


@patch("services.iot._create_policy", why="a long policy is refused", signature="(name, payload)")
def _create_policy(create: Callable[..., Answer], name: str, payload: Call) -> Answer:
    return _too_long(payload) or create(name, payload)


def _too_long(payload: Call) -> Answer:
    size = len("".join(str(payload.get("policyDocument") or "").split()))
    if size <= POLICY_CHARACTERS:
        return None
    text = f"Policy document must have at most {POLICY_CHARACTERS} characters without white space, got {size}"
    return error_response_json("MalformedPolicyException", text, 400)


@patch("services.iot._create_thing", why="a thing without a type has three attributes", signature="(name, payload)")
def _create_thing(create: Callable[..., Answer], name: str, payload: Call) -> Answer:
    attributes = (payload.get("attributePayload") or {}).get("attributes") or {}
    if not payload.get("thingTypeName") and len(attributes) > ATTRIBUTES:
        text = f"A thing without a thing type must have at most {ATTRIBUTES} attributes, got {len(attributes)}"
        return error_response_json("InvalidRequestException", text, 400)
    return create(name, payload)


@patch(
    "services.iot._list_thing_groups",
    why="ListThingGroups filters by prefix and parent: fleet indexing stays on as long as a fleet has groups",
    signature="(qp)",
)
def _list_thing_groups(list_all: Callable[..., Answer], query: Call) -> Answer:
    status, headers, body = list_all(query)
    groups = json.loads(body)["thingGroups"]
    if prefix := query.get("namePrefixFilter"):
        groups = [group for group in groups if group["groupName"].startswith(prefix)]
    if parent := query.get("parentGroup"):
        if iot._thing_groups.get(parent) is None:
            return error_response_json("ResourceNotFoundException", f"Thing group {parent} does not exist", 404)
        below = _below(parent, recursive=str(query.get("recursive", "true")).lower() != "false")
        groups = [group for group in groups if group["groupName"] in below]
    elif str(query.get("recursive", "true")).lower() == "false":
        groups = [group for group in groups if not _parent(group["groupName"])]
    return status, headers, json.dumps({"thingGroups": groups}).encode()


@patch(
    "services.iot._handle_thing_principals",
    why="a certificate may be attached exclusively: to one thing, which is then known on each of its connections",
    signature="(method, path, headers, body, qp)",
)
def _handle_thing_principals(
    handle: Callable[..., Answer], method: str, path: str, headers: Call, body: bytes, query: Call
) -> Answer:
    principal = str(headers.get("x-amzn-principal") or query.get("principal") or "")
    certificate = iot._certificates.get(principal.rsplit("/", 1)[-1])
    thing = iot._thing_arn(path[len("/things/") : -len("/principals")])
    others = [arn for arn in (certificate or {}).get("attachedThings", []) if arn != thing]
    exclusively = query.get("thingPrincipalType") == "EXCLUSIVE_THING"
    if method == "PUT" and others and (exclusively or (certificate or {}).get(EXCLUSIVE)):
        text = f"Principal {principal} is attached to {others[0]}, and an exclusive attachment is the only one."
        return error_response_json("InvalidRequestException", text, 400)
    answer = handle(method, path, headers, body, query)
    if certificate is not None and method in ("PUT", "DELETE"):
        certificate[EXCLUSIVE] = method == "PUT" and exclusively
        iot._certificates[principal.rsplit("/", 1)[-1]] = certificate
    return answer


@patch(
    "services.iot._mqtt_policy_context",
    why="an exclusively attached certificate is its thing's, whatever the client id",
    signature="(account_id, region, certificate_id, client_id)",
)
def _mqtt_policy_context(
    context_of: Callable[..., Call], account_id: str, region: str, certificate_id: str, client_id: str
) -> Call:
    context = context_of(account_id, region, certificate_id, client_id)
    with request_scope(account_id, region):
        record = iot._certificates.get(certificate_id) or {}
        if record.get(EXCLUSIVE) and record.get("attachedThings"):
            context[f"{THING}.thingname"] = iot._thing_name_from_arn(record["attachedThings"][0])
            context[f"{THING}.isattached"] = "true"
    return context


def _parent(group: str) -> str | None:
    metadata = iot._thing_groups[group].get("thingGroupMetadata") or {}
    return metadata.get("parentGroupName")


def _below(parent: str, *, recursive: bool) -> set[str]:
    found: set[str] = set()
    level = {parent}
    while level:
        level = {name for name in iot._thing_groups if _parent(name) in level} - found
        found |= level
        if not recursive:
            break
    return found


def _conflict(what: str, record: Call | None, payload: Call) -> Answer:
    """The refusal of a change that was meant for another version; None where there is none."""
    expected = payload.get("expectedVersion")
    if record is None or expected is None or expected == record.get("version", 1):
        return None
    text = f"The version for {what} does not match the expected version."
    return error_response_json("VersionConflictException", text, 409)


@patch("services.iot._update_thing", why="a wrong expectedVersion is a conflict", signature="(name, payload)")
def _update_thing(update: Callable[..., Answer], name: str, payload: Call) -> Answer:
    return _conflict(f"thing {name}", iot._things.get(name), payload) or update(name, payload)


@patch("services.iot._update_thing_group", why="a wrong expectedVersion is a conflict", signature="(name, payload)")
def _update_thing_group(update: Callable[..., Answer], name: str, payload: Call) -> Answer:
    return _conflict(f"thing group {name}", iot._thing_groups.get(name), payload) or update(name, payload)


TOPIC = "$aws/certificates/create-from-csr/json"
_OPERATION = "create-from-csr"


@patch(
    "services.iot._parse_fleet_provisioning_topic",
    why="devices may join with a certificate signing request",
    signature="(topic)",
)
def _parse_fleet_provisioning_topic(parse: Callable[[str], Any], topic: str) -> Any:
    return (_OPERATION, None) if topic == TOPIC else parse(topic)


@patch(
    "services.iot._fleet_provisioning_reply",
    why="devices may join with a certificate signing request",
    signature="async (account_id, region, operation, template_name, payload, connection)",
)
async def _fleet_provisioning_reply(
    reply: Callable[..., Awaitable[Any]],
    account_id: str,
    region: str,
    operation: str,
    template_name: str | None,
    payload: bytes,
    connection: dict[str, Any],
) -> Any:
    if operation != _OPERATION:
        return await reply(account_id, region, operation, template_name, payload, connection)
    try:
        request = json.loads(payload)
    except (ValueError, RecursionError):
        request = None
    signing_request = request.get("certificateSigningRequest") if isinstance(request, dict) else None
    if not isinstance(signing_request, str):
        return iot._fleet_rejected("InvalidPayload", "Message cannot be parsed")
    with request_scope(account_id, region):
        certificate, key = iot._ensure_ca()
    try:
        pem = await asyncio.to_thread(iot.sign_certificate_request, certificate, key, signing_request)
    except ValueError:
        return iot._fleet_rejected("InvalidCertificateSigningRequest", "CSR violates constraints")
    identifier, token = iot.get_certificate_id(pem), secrets.token_urlsafe(48)
    with request_scope(account_id, region):
        # The same request again is the same certificate, as long as nobody has used it.
        iot._certificates.setdefault(identifier, iot._certificate_record(identifier, pem, "PENDING_ACTIVATION"))
        iot._drop_expired(iot._ownership_tokens)
        expiration = time.time() + iot._OWNERSHIP_TOKEN_SECONDS
        iot._ownership_tokens[token] = {"certificateId": identifier, "expiration": expiration}
    return "accepted", {"certificateId": identifier, "certificatePem": pem, "certificateOwnershipToken": token}


BULK_LIMIT = 500
"""Things in a request: the answer stays below a megabyte, and others are served in between."""

Send = Callable[[dict[str, Any]], Awaitable[None]]

_settings: list[Settings] = []


class RefusedError(Exception):
    """A call was not successful; the text is the service's."""


# It imports at its first use, what is patched must be there.
x509_utils._require_crypto()


@patch(
    "core.x509_utils.serialization",
    why="the authority's key is read and checked once: 40 ms for each certificate otherwise",
    signature="_ModuleWithDeprecations",
)
def _reads_once(by_ministack: ModuleType) -> _ReadsOnce:
    return _ReadsOnce(by_ministack)


_known: dict[str, tuple[int, object]] = {}


@patch(
    "services.iot._mtls_refresh_trust_anchors",
    why="a handshake looks through all certificates only where one has come since",
    signature="(ctx)",
)
def _refresh_trust_anchors(refresh: Callable[[Any], None], context: Any) -> None:
    now = {
        name: (len(store), next(reversed(store), None))
        for name, store in (("authorities", iot._ca_certificates._data), ("devices", iot._certificates._data))
    }
    if now != _known or not iot._mtls_loaded_anchors:
        refresh(context)
        _known.update(now)


_scopes: list[tuple[str, str]] = []
_scopes_of: list[tuple[int, Any]] = []
"""Number of certificates, and the last one, when the accounts and regions that have some were looked through."""


@patch(
    "services.iot._mtls_active_registrations",
    why="a certificate is looked up at each connect, not looked for among those of all devices",
    signature="(cert_id, status='ACTIVE')",
)
def _active_registrations(
    _look_for: Callable[..., Any], cert_id: str, status: str | None = "ACTIVE"
) -> list[tuple[str, str, dict[str, Any]]]:
    data = iot._certificates._data
    if _scopes_of != (now := [(len(data), next(reversed(data), None))]):
        _scopes[:] = sorted({(account, region) for account, region, _certificate in data})
        _scopes_of[:] = now
    found = [(*scope, iot._certificates.get_scoped(*scope, cert_id)) for scope in _scopes]
    return [
        (account, region, record)
        for account, region, record in found
        if isinstance(record, dict) and status in (None, record.get("status"))
    ]


class _ReadsOnce:
    """The module, with private keys that are read once."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._read = functools.lru_cache(maxsize=4)(module.load_pem_private_key)

    def load_pem_private_key(self, data: bytes, password: bytes | None = None) -> Any:
        return self._read(data, password)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


async def answer(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    """Answer the operator: POST registers, DELETE takes away.

    The body of a POST is `{"policy", "group", "attributes", "requests": {thing: certificate request (PEM)}}`, its
    answer `{"certificates": {thing: PEM}}`; a thing that exists is refused. That of a DELETE is `{"things": [name]}`;
    what is gone already is fine.
    """
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    (settings,) = _settings
    document: dict[str, Any]
    try:
        request = json.loads(body)
        with request_scope(settings.account, settings.region):
            if scope["method"] == "POST":
                document = {"certificates": await _register(request)}
            else:
                await _remove([str(thing) for thing in request["things"]])
                document = {}
        status = 200
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        status, document = 400, {"message": f"the request is not understood: {exc!r}"}
    except RefusedError as exc:
        status, document = 400, {"message": str(exc)}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(document).encode()})


async def _register(request: dict[str, Any]) -> dict[str, str]:
    policy, group = str(request["policy"]), request.get("group")
    requests = dict(request["requests"])
    if len(requests) > BULK_LIMIT:
        raise RefusedError(f"requests must be at most {BULK_LIMIT}, got {len(requests)}")
    if taken := [thing for thing in requests if thing in iot._things]:
        raise RefusedError(f"things must be new, got {', '.join(taken[:5])}, which exist")
    certificates = {}
    for thing, csr in requests.items():
        await asyncio.sleep(0)  # devices are served in between
        _checked(iot._create_thing(thing, {"attributePayload": {"attributes": request.get("attributes") or {}}}))
        made = _checked(iot._create_certificate_from_csr({"certificateSigningRequest": csr}, {"setAsActive": "true"}))
        arn = made["certificateArn"]
        _checked(iot._change_policy_target(policy, arn, attach=True))
        path, headers = f"/things/{thing}/principals", {"x-amzn-principal": arn}
        _checked(iot._handle_thing_principals("PUT", path, headers, b"", {}))
        if group:
            _checked(await iot._add_thing_to_group({"thingName": thing, "thingGroupName": group}))
        certificates[thing] = made["certificatePem"]
    return certificates


async def _remove(things: list[str]) -> None:
    for thing in things:
        await asyncio.sleep(0)
        record = iot._things.get(thing) or {}
        for arn in list(record.get("principals", [])):
            identifier = arn.rsplit("/", 1)[-1]
            path, headers = f"/things/{thing}/principals", {"x-amzn-principal": arn}
            iot._handle_thing_principals("DELETE", path, headers, b"", {})
            iot._handle_certificate("PUT", f"/certificates/{identifier}", b'{"newStatus": "INACTIVE"}', {})
            iot._handle_certificate("DELETE", f"/certificates/{identifier}", b"", {"forceDelete": "true"})
        iot._delete_thing(thing)
        CORE_DEVICES.pop(thing, None)


def _checked(response: tuple[int, Any, bytes]) -> dict[str, Any]:
    status, _headers, body = response
    content: dict[str, Any] = json.loads(body or b"{}")
    if status >= 400:
        raise RefusedError(str(content.get("message") or content))
    return content


def install(settings: Settings) -> None:
    """Know the account."""
    _settings[:] = [settings]
