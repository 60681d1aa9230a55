"""The Greengrass V2 API on the gateway, for boto3, the CLI and CloudFormation."""

from __future__ import annotations

from twin.cloud.greengrass import component_api, core_device_api, deployment_api, tag_api
from twin.cloud.greengrass.routing import answer

_ROUTES = [*component_api.ROUTES, *deployment_api.ROUTES, *core_device_api.ROUTES, *tag_api.ROUTES]


async def handle(
    method: str,
    path: str,
    headers: dict[str, str],  # noqa: ARG001 - the signature of every MiniStack service
    body: bytes,
    query: dict[str, list[str]],
) -> tuple[int, dict[str, str], bytes]:
    """Answer a request of the `greengrass` service."""
    return await answer(_ROUTES, method, path, body, query)
