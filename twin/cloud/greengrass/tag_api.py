"""The tag operations of the Greengrass API."""

from __future__ import annotations

import re
from typing import Any

from twin.cloud.greengrass.component import component_version
from twin.cloud.greengrass.core_device import find_core_device
from twin.cloud.greengrass.deployment import find_deployment
from twin.cloud.greengrass.request_model import read_request
from twin.cloud.greengrass.routing import Answer, Call, Route
from twin.cloud.greengrass.service_error import InvalidRequestError

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
            record = component_version(arn)
        case "deployments":
            record = find_deployment(match[2])
        case _:
            record = find_core_device(match[2])
    tags: dict[str, str] = record.setdefault("tags", {})
    return tags


async def _list(call: Call) -> Answer:
    return 200, {"tags": tags_of(call.names[0])}


async def _tag(call: Call) -> Answer:
    tags_of(call.names[0]).update(read_request("TagResource", call.body)["tags"])
    return 200, {}


async def _untag(call: Call) -> Answer:
    tags = tags_of(call.names[0])
    for key in call.query_lists.get("tagKeys", []):
        tags.pop(key, None)
    return 200, {}


ROUTES: list[Route] = [
    ("GET", "/tags/(arn:.+)", _list),
    ("POST", "/tags/(arn:.+)", _tag),
    ("DELETE", "/tags/(arn:.+)", _untag),
]
