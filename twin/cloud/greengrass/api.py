"""The Greengrass V2 API: on the gateway for boto3, the CLI and CloudFormation; on port 8443 for core devices (mTLS).

And its types AWS::GreengrassV2::ComponentVersion and AWS::GreengrassV2::Deployment. Their rules are those of AWS's own
resource providers: everything but tags is create-only, an existing component version fails the create, deleting a
deployment cancels it first, and neither waits for devices.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from ministack import app
from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import iot

from twin.cloud.aws.protocol import (
    AccessDeniedError,
    Answer,
    Call,
    InvalidRequestError,
    NotFoundError,
    Response,
    Route,
    ServiceError,
    answer_rest,
    without_none,
)
from twin.cloud.aws.shapes import read_request, request_from_properties
from twin.cloud.greengrass import client_devices, components, core_devices, deployments
from twin.cloud.greengrass.components import SERVICE, artifact_location, resolve_component_candidates
from twin.cloud.iot.listener import DeviceIdentity, Listener, RequestHead, identify, read_body, read_head, write_json
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_background, register_service, register_store, register_type
from twin.cloud_process import Settings

_ARN = re.compile(r"arn:aws[a-z-]*:greengrass:[^:]*:\d+:(components|deployments|coreDevices):(.+)")


def tags_of(arn: str) -> dict[str, str]:
    """The tags of a component version, deployment or core device; changing the mapping changes them.

    Raises:
        InvalidRequestError: If the ARN is of none of these.
        NotFoundError: If it names nothing that exists.
    """
    match = _ARN.fullmatch(arn)
    if match is None:
        raise InvalidRequestError(
            [("resourceArn", f"must be of a component version, deployment or core device, got {arn!r}")]
        )
    record: dict[str, Any]
    match match[1]:
        case "components":
            record = components.component_version(arn)
        case "deployments":
            record = deployments.find_deployment(match[2])
        case _:
            record = core_devices.find_core_device(match[2])
    tags: dict[str, str] = record.setdefault("tags", {})
    return tags


async def _list(call: Call) -> Answer:
    return 200, {"tags": tags_of(call.names[0])}


async def _tag(call: Call) -> Answer:
    tags_of(call.names[0]).update(read_request(SERVICE, "TagResource", call.body)["tags"])
    return 200, {}


async def _untag(call: Call) -> Answer:
    tags = tags_of(call.names[0])
    for key in call.query_lists.get("tagKeys", []):
        tags.pop(key, None)
    return 200, {}


_TAG_ROUTES: list[Route] = [
    ("GET", "/tags/(arn:.+)", _list),
    ("POST", "/tags/(arn:.+)", _tag),
    ("DELETE", "/tags/(arn:.+)", _untag),
]


#: Each with its `ROUTES`, and the `STORES` behind them.
_CALLS = (components, deployments, core_devices, client_devices)
_ROUTES = [*(route for each in _CALLS for route in each.ROUTES), *_TAG_ROUTES]


async def handle(
    method: str,
    path: str,
    headers: dict[str, str],  # noqa: ARG001 - the signature of every MiniStack service
    body: bytes,
    query: dict[str, list[str]],
) -> Response:
    """Answer a request of the `greengrass` service."""
    return await answer_rest(_ROUTES, method, path, body, query)


@patch(
    "core.router._is_aws_service_name",
    why="signing names of registered services are known without loading the models of all of AWS's, which takes 5 s",
    signature="(scope_name)",
)
def _is_aws_service_name(in_catalogue: Callable[[str], bool], scope_name: str) -> bool:
    return scope_name in app.SERVICE_HANDLERS or bool(in_catalogue(scope_name))


_THING_GROUPS = re.compile(r"/greengrass/v2/coreDevices/([^/]+)/thingGroups")
_RESOLVE = "/greengrass/v2/resolveComponentCandidates"
_ARTIFACT = re.compile(r"/greengrass/v2/components/(arn:[^/]+)/artifacts/(.+)")


IDLE_LIMIT_S = 5.0
"""A thousand devices that have asked must not keep others away."""


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of a connection: a handshake costs more than they do."""
    head = await read_head(reader)
    while await serve_request(head, reader, writer, stays=not head.is_last):
        async with asyncio.timeout(IDLE_LIMIT_S):
            head = await read_head(reader)


async def serve_request(
    head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, stays: bool = False
) -> bool:
    """Answer the request that begins with this head; returns whether another one may follow, as `stays` says."""
    body = await read_body(head, reader, writer)
    stays = stays and not head.connection.trailing_data[0]  # what came with the body would be lost
    identity = identify(writer)
    if identity is None and client_devices.is_discovery(_path(head)):
        return False  # as AWS does: the connection is closed without a word
    try:
        await write_json(writer, 200, without_none(answer(identity, head, body)), stays=stays)
    except client_devices.DiscoveryError as error:
        await write_json(writer, error.status, error.document, stays=stays)
    except ServiceError as error:
        await write_json(writer, error.status, error.document(), error.code, stays=stays)
    return stays


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
        DiscoveryError: If a client device may not discover, or finds nothing.
    """
    if identity is None or not identity.things():
        raise AccessDeniedError("an active certificate that is attached to a thing must be presented")
    path = _path(head)
    with request_scope(identity.account, identity.region):
        if head.method == "GET" and (match := _THING_GROUPS.fullmatch(path)):
            return _thing_groups(identity, match[1])
        if head.method == "POST" and path == _RESOLVE:
            _require(identity, "ResolveComponentCandidates", "components:*")
            return resolve_component_candidates(read_request(SERVICE, "ResolveComponentCandidates", body))
        if head.method == "GET" and (match := _ARTIFACT.fullmatch(path)):
            component = match[1].partition(":components:")[2]
            _require(identity, "GetComponentVersionArtifact", f"components:{component}")
            return artifact_location(match[1], match[2])
        if (found := client_devices.answer(identity, head.method, path, body)) is not None:
            return found
    raise NotFoundError("resource", f"{head.method} {path}")


def _path(head: RequestHead) -> str:
    return unquote(head.target.partition("?")[0])


def _thing_groups(identity: DeviceIdentity, thing: str) -> dict[str, Any]:
    if thing not in identity.things():
        raise AccessDeniedError(f"certificate must be attached to thing {thing}: attach it, or ask as its own thing")
    _require(identity, "ListThingGroupsForCoreDevice", f"coreDevices:{thing}")
    return {
        "thingGroups": [
            {"thingGroupArn": iot._thing_group_arn(name), "thingGroupName": name}
            for name, group in iot._thing_groups.items()
            if thing in group.get("things", [])
        ]
    }


def _require(identity: DeviceIdentity, operation: str, resource: str) -> None:
    arn = f"arn:aws:greengrass:{identity.region}:{identity.account}:{resource}"
    if not identity.allows(f"greengrass:{operation}", arn):
        raise AccessDeniedError(f"an IoT policy must allow greengrass:{operation} on {arn}: attach one that does")


def install(settings: Settings) -> None:
    """Add the service and its stores to MiniStack, and listen on the data port."""
    register_service("greengrass", handle)
    for each in _CALLS:
        for name, mapping in each.STORES.items():
            register_store(name, mapping)
    _register_types()
    listener = Listener("Greengrass data plane", settings.data_port, serve, tls=True)
    register_background(listener.name, start=listener.start, stop=listener.stop)


COMPONENT_VERSION = "AWS::GreengrassV2::ComponentVersion"
DEPLOYMENT = "AWS::GreengrassV2::Deployment"

_CALL_LIMIT_S = 120.0
"""A call ends in milliseconds; the digests of 2 GiB of artifacts take about ten seconds."""

Properties = dict[str, Any]


def _register_types() -> None:
    """Register the two types; they run on worker threads, from where they call the API on the event loop."""
    register_type(
        COMPONENT_VERSION,
        create=create_component_version,
        update=_update_component_version,
        delete=_delete_component_version,
        replacing=("InlineRecipe", "LambdaFunction"),
        blocking=True,
    )
    register_type(
        DEPLOYMENT,
        create=create_deployment,
        update=_update_deployment,
        delete=_delete_deployment,
        replacing=(
            "TargetArn",
            "ParentTargetArn",
            "DeploymentName",
            "Components",
            "IotJobConfiguration",
            "DeploymentPolicies",
        ),
        blocking=True,
    )


def create_component_version(logical_id: str, properties: Properties, stack: str) -> tuple[str, dict[str, Any]]:  # noqa: ARG001
    """Make the component version; `Ref` is its ARN.

    Raises:
        ValueError: With AWS's reason, `AlreadyExists` for a version that is there.
    """
    request = request_from_properties(SERVICE, "CreateComponentVersion", properties)
    if "inlineRecipe" in request:
        request["inlineRecipe"] = base64.b64encode(request["inlineRecipe"].encode()).decode()
    status, made = _call("POST", "/greengrass/v2/createComponentVersion", request)
    if status == 409:
        raise ValueError(f"AlreadyExists: {made['message']}")
    _require_success(COMPONENT_VERSION, status, made)
    names = {"ComponentName": made["componentName"], "ComponentVersion": made["componentVersion"]}
    return made["arn"], {"Arn": made["arn"], **names}


def _update_component_version(
    physical_id: str, old: Properties, new: Properties, _stack: str
) -> tuple[str, dict[str, Any]]:
    _update_tags(physical_id, old, new)
    name, version = physical_id.split(":components:")[1].split(":versions:")
    return physical_id, {"Arn": physical_id, "ComponentName": name, "ComponentVersion": version}


def _delete_component_version(physical_id: str, _properties: Properties) -> None:
    status, answer = _call("DELETE", f"/greengrass/v2/components/{quote(physical_id, safe='')}")
    if status != 404:
        _require_success(COMPONENT_VERSION, status, answer)


def create_deployment(logical_id: str, properties: Properties, stack: str) -> tuple[str, dict[str, Any]]:  # noqa: ARG001
    """Make the deployment; `Ref` and `DeploymentId` are its id. Devices are not waited for.

    Raises:
        ValueError: With AWS's reason.
    """
    status, made = _call(
        "POST", "/greengrass/v2/deployments", request_from_properties(SERVICE, "CreateDeployment", properties)
    )
    _require_success(DEPLOYMENT, status, made)
    return made["deploymentId"], {"DeploymentId": made["deploymentId"]}


def _update_deployment(physical_id: str, old: Properties, new: Properties, _stack: str) -> tuple[str, dict[str, Any]]:
    _update_tags(f"arn:aws:greengrass:{get_region()}:{get_account_id()}:deployments:{physical_id}", old, new)
    return physical_id, {"DeploymentId": physical_id}


def _delete_deployment(physical_id: str, _properties: Properties) -> None:
    path = f"/greengrass/v2/deployments/{quote(physical_id, safe='')}"
    # 409: it is not active any more, which is what cancelling is for.
    status, answer = _call("POST", f"{path}/cancel")
    if status not in (404, 409):
        _require_success(DEPLOYMENT, status, answer)
    status, answer = _call("DELETE", path)
    if status != 404:
        _require_success(DEPLOYMENT, status, answer)


def _update_tags(arn: str, old: Properties, new: Properties) -> None:
    """Add new tags and remove dropped ones; AWS's provider ignores the changed value of a tag that stays."""
    before, after = old.get("Tags") or {}, new.get("Tags") or {}
    path = f"/tags/{quote(arn, safe='')}"
    if added := {key: str(value) for key, value in after.items() if key not in before}:
        _require_success("Tags", *_call("POST", path, {"tags": added}))
    if dropped := [key for key in before if key not in after]:
        _require_success("Tags", *_call("DELETE", path, query={"tagKeys": dropped}))


def _call(
    method: str, path: str, request: dict[str, Any] | None = None, query: dict[str, list[str]] | None = None
) -> tuple[int, dict[str, Any]]:
    """Call the API in process, on the event loop, from the worker thread of a provisioner."""
    body = json.dumps(request).encode() if request is not None else b""
    status, _headers, answer = app.call_service_handler_sync(
        handle, method, path, {}, body, query or {}, timeout=_CALL_LIMIT_S
    )
    document: dict[str, Any] = json.loads(answer or b"{}")
    return status, document


def _require_success(kind: str, status: int, document: dict[str, Any]) -> None:
    if status >= 400:
        raise ValueError(f"{kind}: {document.get('message')}")
