"""The Greengrass V2 API on the gateway, for boto3, the CLI and CloudFormation, with its tags."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ministack import app

from twin.cloud.aws.protocol import Answer, Call, InvalidRequestError, Response, Route, answer_rest
from twin.cloud.aws.shapes import read_request
from twin.cloud.greengrass import components, core_devices, deployments
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_service, register_store
from twin.cloud.settings import Settings

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
    tags_of(call.names[0]).update(read_request(components.SERVICE, "TagResource", call.body)["tags"])
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


_ROUTES = [*components.ROUTES, *deployments.ROUTES, *core_devices.ROUTES, *_TAG_ROUTES]


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
def is_aws_service_name(in_catalogue: Callable[[str], bool], scope_name: str) -> bool:
    """Whether a request may be signed for a name."""
    return scope_name in app.SERVICE_HANDLERS or bool(in_catalogue(scope_name))


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Add the service and its stores to MiniStack."""
    register_service("greengrass", handle)
    register_store("greengrass_components", components.COMPONENTS)
    register_store("greengrass_deployments", deployments.DEPLOYMENTS)
    register_store("greengrass_revisions", deployments.REVISIONS)
    register_store("greengrass_core_devices", core_devices.CORE_DEVICES)
