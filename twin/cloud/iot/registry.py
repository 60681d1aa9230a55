"""What AWS IoT's registry refuses, filters or offers, and MiniStack does not: versions, limits, joining by request."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ministack.core.responses import error_response_json, request_scope
from ministack.services import iot

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch

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
