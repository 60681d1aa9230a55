"""What AWS IoT's registry refuses or filters, and MiniStack does not: versions, limits and prefixes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from ministack.core.responses import error_response_json
from ministack.services import iot

from twin.cloud.ministack.patches import patch

POLICY_VERSIONS = 5
"""Versions that a policy may have at once (AWS IoT Core quotas; CreatePolicyVersion)."""

POLICY_CHARACTERS = 2048
"""Of a policy's document, white space aside (AWS IoT Core quotas)."""

ATTRIBUTES = 3
"""Of a thing without a type (AWS IoT Core quotas)."""

Answer = Any
"""Status, headers and body."""
Call = dict[str, Any]


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
