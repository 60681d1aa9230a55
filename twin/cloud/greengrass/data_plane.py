"""The Greengrass data plane of core devices: mTLS, port 8443."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import unquote

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.aws.protocol import AccessDeniedError, NotFoundError, ServiceError, without_none
from twin.cloud.aws.shapes import read_request
from twin.cloud.greengrass.components import SERVICE, artifact_location, resolve_component_candidates
from twin.cloud.iot.device_identity import DeviceIdentity, identify
from twin.cloud.iot.http_message import RequestHead, read_body, read_head, write_json
from twin.cloud.iot.listener import Listener
from twin.cloud.ministack.registry import register_background
from twin.cloud.settings import Settings

_THING_GROUPS = re.compile(r"/greengrass/v2/coreDevices/([^/]+)/thingGroups")
_RESOLVE = "/greengrass/v2/resolveComponentCandidates"
_ARTIFACT = re.compile(r"/greengrass/v2/components/(arn:[^/]+)/artifacts/(.+)")


def install(settings: Settings) -> None:
    """Listen on the data port."""
    listener = Listener("Greengrass data plane", settings.data_port, serve, tls=True)
    register_background(listener.name, start=listener.start, stop=listener.stop)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the one request of a connection."""
    head = await read_head(reader)
    body = await read_body(head, reader, writer)
    try:
        await write_json(writer, 200, without_none(answer(identify(writer), head, body)))
    except ServiceError as error:
        await write_json(writer, error.status, error.document(), error.code)


def answer(identity: DeviceIdentity | None, head: RequestHead, body: bytes) -> dict[str, Any]:
    """The answer to a device's request.

    Args:
        identity: Of its certificate; None if it presented none that is active.
        head: The request's head.
        body: Its body.

    Raises:
        AccessDeniedError: If the certificate is not attached to the thing, or its IoT policies do not allow the call.
        InvalidRequestError: If the request is malformed.
        NotFoundError: If there is no such resource, or no component version that fits.
    """
    if identity is None or not identity.things():
        raise AccessDeniedError("an active certificate that is attached to a thing must be presented")
    path = unquote(head.target.partition("?")[0])
    with request_scope(identity.account, identity.region):
        if head.method == "GET" and (match := _THING_GROUPS.fullmatch(path)):
            return _thing_groups(identity, match[1])
        if head.method == "POST" and path == _RESOLVE:
            _require(identity, "ResolveComponentCandidates", "components:*", identity.things()[0])
            return resolve_component_candidates(read_request(SERVICE, "ResolveComponentCandidates", body))
        if head.method == "GET" and (match := _ARTIFACT.fullmatch(path)):
            component = match[1].partition(":components:")[2]
            _require(identity, "GetComponentVersionArtifact", f"components:{component}", identity.things()[0])
            return artifact_location(match[1], match[2])
    raise NotFoundError("resource", f"{head.method} {path}")


def _thing_groups(identity: DeviceIdentity, thing: str) -> dict[str, Any]:
    if thing not in identity.things():
        raise AccessDeniedError(f"certificate must be attached to thing {thing}: attach it, or ask as its own thing")
    _require(identity, "ListThingGroupsForCoreDevice", f"coreDevices:{thing}", thing)
    return {
        "thingGroups": [
            {"thingGroupArn": iot._thing_group_arn(name), "thingGroupName": name}
            for name, group in iot._thing_groups.items()
            if thing in group.get("things", [])
        ]
    }


def _require(identity: DeviceIdentity, operation: str, resource: str, thing: str) -> None:
    arn = f"arn:aws:greengrass:{identity.region}:{identity.account}:{resource}"
    if not identity.allows(f"greengrass:{operation}", arn, thing):
        raise AccessDeniedError(f"an IoT policy must allow greengrass:{operation} on {arn}: attach one that does")
