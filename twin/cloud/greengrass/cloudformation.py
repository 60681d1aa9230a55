"""AWS::GreengrassV2::ComponentVersion and AWS::GreengrassV2::Deployment.

The rules are those of AWS's own resource providers: everything but tags is create-only, an existing component version
fails the create, deleting a deployment cancels it first, and neither waits for devices.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

from ministack import app
from ministack.core.responses import get_account_id, get_region

from twin.cloud.aws.shapes import request_from_properties
from twin.cloud.greengrass import api
from twin.cloud.greengrass.components import SERVICE
from twin.cloud.ministack.registry import register_type
from twin.cloud_process import Settings

COMPONENT_VERSION = "AWS::GreengrassV2::ComponentVersion"
DEPLOYMENT = "AWS::GreengrassV2::Deployment"

_CALL_LIMIT_S = 120.0
"""A call ends in milliseconds; the digests of 2 GiB of artifacts take about ten seconds."""

Properties = dict[str, Any]


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
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
        api.handle, method, path, {}, body, query or {}, timeout=_CALL_LIMIT_S
    )
    document: dict[str, Any] = json.loads(answer or b"{}")
    return status, document


def _require_success(kind: str, status: int, document: dict[str, Any]) -> None:
    if status >= 400:
        raise ValueError(f"{kind}: {document.get('message')}")
