"""What AUTH=true needs to evaluate calls of the twin's services: action names, resource ARNs, transport."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from ministack.core import iam_actions, iam_evaluator

from twin.cloud.registry import Settings

_GREENGRASS_ARN = re.compile(r"/(arn:aws:greengrass:[^/]+)")
_GREENGRASS_DEPLOYMENT = re.compile(r"/greengrass/v2/deployments/([^/]+)")
_GREENGRASS_CORE_DEVICE = re.compile(r"/greengrass/v2/coreDevices/([^/]+)")
_IOT_ROLE_ALIAS = re.compile(r"/role-aliases/([\w=,@-]+)")
_SAGEMAKER_ENDPOINT = re.compile(r"/endpoints/([^/]+)/invocations")
_SAGEMAKER_KINDS = (
    ("EdgePackagingJobName", "edge-packaging-job"),
    ("CompilationJobName", "compilation-job"),
    ("EndpointName", "endpoint"),
    ("EndpointConfigName", "endpoint-config"),
    ("ModelName", "model"),
)
_IOT_POLICY_TARGETS = re.compile(r"/policy-targets/([\w+=,.@-]+)")
_IOT_ATTACHMENT = re.compile(r"/target-policies/[\w+=,.@-]+")


def resource_arn(service: str, path: str, body: bytes, region: str, account: str) -> str | None:
    """The resource that a call of one of the twin's own services is authorised on.

    Args:
        service: MiniStack's name of the service.
        path: Path of the request, percent-encoded or not.
        body: Body of the request.
        region: Region of the request.
        account: Account of the request.

    Returns:
        An ARN, `*` for calls without one resource, or None if the service is not one of the twin's.
    """
    path = unquote(path)
    if service == "greengrass":
        if named := _GREENGRASS_ARN.search(path):
            return named[1]
        if deployment := _GREENGRASS_DEPLOYMENT.match(path):
            return f"arn:aws:greengrass:{region}:{account}:deployments:{deployment[1]}"
        if core := _GREENGRASS_CORE_DEVICE.match(path):
            return f"arn:aws:greengrass:{region}:{account}:coreDevices:{core[1]}"
        return "*"
    if service == "sagemaker":
        return _sagemaker_arn(path, body, region, account)
    if service == "iot":
        return _iot_arn(path, body, region, account)
    return None


def _sagemaker_arn(path: str, body: bytes, region: str, account: str) -> str:
    """What a call is about; the first name of the list wins, because an endpoint names its configuration, too."""
    prefix = f"arn:aws:sagemaker:{region}:{account}"
    if invoked := _SAGEMAKER_ENDPOINT.fullmatch(path):
        return f"{prefix}:endpoint/{invoked[1]}"
    for member, kind in _SAGEMAKER_KINDS:
        if name := _field(body, member):
            return f"{prefix}:{kind}/{name}"
    return "*"


def _iot_arn(path: str, body: bytes, region: str, account: str) -> str | None:
    """What MiniStack leaves out: role aliases, and the two ends of a policy's attachment."""
    if alias := _IOT_ROLE_ALIAS.fullmatch(path):
        return f"arn:aws:iot:{region}:{account}:rolealias/{alias[1]}"
    if policy := _IOT_POLICY_TARGETS.fullmatch(path):
        return f"arn:aws:iot:{region}:{account}:policy/{policy[1]}"
    if _IOT_ATTACHMENT.fullmatch(path):
        # AttachPolicy and DetachPolicy are authorised on the certificate or group, not on the policy.
        return str(_field(body, "target") or "*")
    return None


def _field(body: bytes, name: str) -> Any:
    """A member of a JSON body; None where there is none."""
    try:
        return json.loads(body or b"{}").get(name)
    except (ValueError, AttributeError):
        return None


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Name the services' actions and resources, and take loopback for a secure transport."""
    iam_actions.SERVICE_TO_IAM_NAMESPACE.update({"greengrass": "greengrass", "sagemaker": "sagemaker"})
    iam_actions._BOTOCORE_SERVICE_MAP["greengrass"] = ["greengrassv2"]
    iam_actions._BOTOCORE_SERVICE_MAP["sagemaker"] = ["sagemaker-runtime"]
    ministacks_resource_arn = iam_actions.extract_resource_arn
    ministacks_condition_key = iam_evaluator._resolve_condition_key

    def extract_resource_arn(
        service: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        query_params: dict[str, Any],
        region: str,
        account_id: str,
    ) -> str:
        own = resource_arn(service, path, body, region, account_id)
        if own is not None:
            return own
        return str(ministacks_resource_arn(service, method, path, headers, body, query_params, region, account_id))

    def resolve_condition_key(key: str, context: Any) -> Any:
        # Bucket policies deny plain HTTP; nothing leaves this machine, so the loopback gateway counts as encrypted.
        return "true" if key.lower() == "aws:securetransport" else ministacks_condition_key(key, context)

    iam_actions.extract_resource_arn = extract_resource_arn
    iam_evaluator._resolve_condition_key = resolve_condition_key
