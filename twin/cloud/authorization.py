"""What AUTH=true needs to evaluate calls as AWS does, and the trail of who was allowed or denied what.

Action names, resource ARNs and transport of the twin's services; permissions that AWS asks for besides a call's own: S3
uses the bucket's KMS key with the caller's rights, and tells only those who may list a bucket that a key is missing; a
service that is handed a role asks for iam:PassRole; Greengrass works on IoT's jobs with its caller's rights. The trail
tells a permission that something needs from one that nothing needs (tools/least_privilege.py).
"""

from __future__ import annotations

import contextvars
import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_account_id, get_region
from ministack.core.router import extract_access_key_id
from ministack.services import s3

from twin.cloud.greengrass.core_devices import CORE_DEVICES, effective_deployments
from twin.cloud.greengrass.deployments import DEPLOYMENTS
from twin.cloud.ministack.patches import patch
from twin.cloud_process import Settings

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
    ("DeviceFleetName", "device-fleet"),
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
            return f"{prefix}:{kind}/{name}{_device(body)}"
    return "*"


def _device(body: bytes) -> str:
    """The end of the resource of a call about a fleet's devices: RegisterDevices and DeregisterDevices name several."""
    for devices in (_field(body, "Devices"), _field(body, "DeviceNames")):
        if isinstance(devices, list) and devices:
            (first, *_) = devices
            return f"/device/{first.get('DeviceName') if isinstance(first, dict) else first}"
    return ""


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
    except (ValueError, AttributeError, RecursionError):
        return None


@patch("core.iam_actions.SERVICE_TO_IAM_NAMESPACE", why="the twin's services have names in policies", signature="dict")
def _service_namespaces(by_ministack: dict[str, str]) -> dict[str, str]:
    by_ministack.update({"greengrass": "greengrass", "sagemaker": "sagemaker"})
    return by_ministack


@patch("core.iam_actions._BOTOCORE_SERVICE_MAP", why="the twin's services have names in botocore", signature="dict")
def _service_models(by_ministack: dict[str, list[str]]) -> dict[str, list[str]]:
    by_ministack.update({"greengrass": ["greengrassv2"], "sagemaker": ["sagemaker-runtime"]})
    return by_ministack


@patch(
    "core.iam_actions.extract_resource_arn",
    why="calls of the twin's services are authorised on their resource",
    signature="(service, method, path, headers, body, query_params, region, account_id)",
)
def _extract_resource_arn(
    by_ministack: Callable[..., str],
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
    return str(by_ministack(service, method, path, headers, body, query_params, region, account_id))


@patch(
    "core.iam_evaluator._resolve_condition_key",
    why="bucket policies deny plain HTTP; the gateway is on loopback only, which counts as encrypted",
    signature="(key, ctx)",
)
def _resolve_condition_key(by_ministack: Callable[..., Any], key: str, ctx: Any) -> Any:
    return "true" if key.lower() == "aws:securetransport" else by_ministack(key, ctx)


_OBJECT = re.compile(r"arn:aws:s3:::([^/]+)/(.+)")
_KEY = re.compile(r"<KMSMasterKeyID>([^<]+)</KMSMasterKeyID>")
#: What S3 does with the key for a call: GetObject answers HeadObject, PutObject every way of uploading.
_KEY_ACTIONS = {"s3:GetObject": "kms:Decrypt", "s3:PutObject": "kms:GenerateDataKey"}


def bucket_key(resource_arn: str) -> str | None:
    """The KMS key that encrypts the objects of a bucket by default.

    Args:
        resource_arn: ARN of an object.

    Returns:
        The key's ARN or id as the bucket names it; None without one.
    """
    found = _OBJECT.fullmatch(resource_arn)
    key = _KEY.search(s3._bucket_encryption.get(found[1]) or "") if found else None
    return key[1] if key else None


def may_pass_role(headers: dict[str, str], role_arn: str, service: str) -> bool:
    """Whether the caller of a request may hand a role to a service; always, where policies are not evaluated.

    Args:
        headers: Of the request, names in lower case.
        role_arn: The role.
        service: Service principal that gets it, such as `sagemaker.amazonaws.com`.
    """
    if not app.AUTH:
        return True
    denied = iam_evaluator.enforce(
        extract_access_key_id(headers, {}),
        "iam:PassRole",
        "iam",
        get_region(),
        resource_arn=role_arn,
        service_context={"iam:PassedToService": service},
    )
    return denied is None


def is_missing(resource_arn: str) -> bool:
    """Whether an object is not there, in a bucket that is.

    Args:
        resource_arn: ARN of an object.
    """
    found = _OBJECT.fullmatch(resource_arn)
    bucket = s3._buckets.get(found[1]) if found else None
    return found is not None and bucket is not None and found[2] not in bucket["objects"]


Right = tuple[str, str]

#: Verbs on the deployment's job; the target is described with all of them but DeleteDeployment.
_JOB_VERBS = {
    "greengrass:GetDeployment": ("DescribeJob",),
    "greengrass:CancelDeployment": ("DescribeJob", "CancelJob", "UpdateJob"),
    "greengrass:DeleteDeployment": ("DeleteJob",),
}
_EXECUTION_VERBS = {
    "greengrass:DeleteCoreDevice": (),
    "greengrass:ListEffectiveDeployments": ("DescribeJob",),
}


def needed(action: str, resource_arn: str) -> Iterator[Right]:
    """List the rights that a call asks for besides its own.

    Args:
        action: Such as `greengrass:CancelDeployment`.
        resource_arn: Of the deployment or the core device.

    Returns:
        IAM action and ARN of each; none for other calls, and for what does not exist.
    """
    name = resource_arn.rpartition(":")[2]
    if action == "greengrass:CreateDeployment":
        # Of the new job, and of the one before, which goes.
        job = f"arn:aws:iot:{get_region()}:{get_account_id()}:job/{name}"
        yield from ((f"iot:{verb}", job) for verb in ("CreateJob", "DescribeJob", "CancelJob", "UpdateJob"))
    elif action in _JOB_VERBS and (deployment := DEPLOYMENTS.get(name)):
        yield from ((f"iot:{verb}", deployment["iotJobArn"]) for verb in _JOB_VERBS[action])
        if action != "greengrass:DeleteDeployment":
            kind = "DescribeThingGroup" if ":thinggroup/" in deployment["targetArn"] else "DescribeThing"
            yield f"iot:{kind}", deployment["targetArn"]
    elif action in _EXECUTION_VERBS and name in CORE_DEVICES:
        for each in effective_deployments(name):
            yield from ((f"iot:{verb}", each["iotJobArn"]) for verb in _EXECUTION_VERBS[action])
            yield "iot:DescribeJobExecution", each["iotJobArn"]
            # The action is on both: a policy that allows one of them allows nothing.
            yield "iot:DescribeJobExecution", f"arn:aws:iot:{get_region()}:{get_account_id()}:thing/{name}"


FILE = "access.jsonl"
TRAIL_LINES = 50_000
"""Different requests that are written down; with as many, a run has shown what its roles need."""
CERTIFICATE = "Certificate"

#: Set while a request's identity policies are the next to be evaluated; resource policies come after them.
_identity_next: contextvars.ContextVar[bool] = contextvars.ContextVar("identity_next", default=False)
#: Set while a provisioning role is asked for, one evaluation a right.
_provisioning: contextvars.ContextVar[bool] = contextvars.ContextVar("provisioning", default=False)


class AccessTrail:
    """One JSON object a line: principal, action, resource, region, context, allowed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()

    def note(self, context: Any, allowed: bool) -> None:
        """Write a request down, unless the same one was before."""
        line = json.dumps(
            {
                "principal": principal_of(context),
                "type": context.principal_type,
                "account": context.principal_account,
                "action": context.action,
                "resource": context.resource_arn,
                "region": context.region,
                "context": {
                    key: value
                    for key, value in (*context.service_context.items(), *context.principal_keys.items())
                    if value is not None and (key in context.service_context or key.startswith("credentials-iot:"))
                },
                "allowed": allowed,
            },
            sort_keys=True,
            default=str,
        )
        if line not in self._seen and len(self._seen) < TRAIL_LINES:
            self._seen.add(line)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


def principal_of(context: Any) -> str:
    """Name of the role, or `Certificate` for a device: certificates come and go, their policies are the same."""
    if context.principal_type == CERTIFICATE:
        return CERTIFICATE
    return iam_evaluator._role_name_from_assumed_arn(context.principal_arn) or str(context.principal_arn)


_trail: AccessTrail | None = None


@patch(
    "core.iam_evaluator.evaluate",
    "services.iot.evaluate",
    why="every evaluation of an identity policy is written down",
    signature="(ctx, policies, *limits)",
)
def _noting_evaluate(evaluate: Callable[..., Any], ctx: Any, policies: Any, *limits: Any) -> Any:
    result = evaluate(ctx, policies, *limits)
    if _trail and (ctx.principal_type == CERTIFICATE or _identity_next.get() or _provisioning.get()):
        _identity_next.set(False)
        _trail.note(ctx, result.decision == "Allow")
    return result


_VARIABLE = re.compile(r"\$\{([\w-]+:[\w/.-]+)\}")


def filled(policies: list[list[Any]], keys: dict[str, Any]) -> list[list[Any]]:
    """Put the values of policy variables into resources; a statement whose variable has no value speaks of nothing.

    Args:
        policies: As MiniStack parses them.
        keys: Condition keys of the caller, in lower case.
    """

    def fill(text: str) -> str:
        # No ARN has a line break.
        return _VARIABLE.sub(lambda found: str(keys.get(found[1].lower(), "\n")), text)

    def of_caller(statement: Any) -> Any:
        if not any("${" in each for each in (*statement.resources, *statement.not_resources)):
            return statement
        named = {name: list(map(fill, getattr(statement, name))) for name in ("resources", "not_resources")}
        return dataclasses.replace(statement, **named)

    return [[of_caller(statement) for statement in policy] for policy in policies]


@patch(
    "core.iam_evaluator.evaluate",
    why="variables of policies have their values, such as the thing's name in what a device may write",
    signature="(ctx, policies, *limits)",
)
def _evaluate_filled(evaluate: Callable[..., Any], ctx: Any, policies: Any, *limits: Any) -> Any:
    return evaluate(ctx, filled(policies, ctx.principal_keys), *limits)


@patch(
    "core.iam_evaluator.enforce",
    why="the identity policies of a request are told from the resource policies that come after them",
    signature="(access_key_id, iam_action, service, region, resource_arn='*', service_context=None)",
)
def _noting_enforce(enforce: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    token = _identity_next.set(True)
    try:
        return enforce(*arguments, **named)
    finally:
        _identity_next.reset(token)


@patch(
    "services.iot._provisioning_role_allows",
    why="the rights that a provisioning role is asked for are written down",
    signature="(role_arn, requests)",
)
def _noting_provisioning(allows: Callable[..., bool], role_arn: str, requests: Any) -> bool:
    token = _provisioning.set(True)
    try:
        return bool(allows(role_arn, requests))
    finally:
        _provisioning.reset(token)


# After the trail's: each right that is asked for besides is an evaluation of its own.
@patch(
    "core.iam_evaluator.enforce",
    why="AWS asks for permissions besides a call's own",
    signature="(access_key_id, iam_action, service, region, resource_arn='*', service_context=None)",
)
def _enforce_implied(
    enforce: Callable[..., Any],
    access_key_id: str,
    iam_action: str,
    service: str,
    region: str,
    resource_arn: str = "*",
    **named: Any,
) -> Any:
    denied = enforce(access_key_id, iam_action, service, region, resource_arn=resource_arn, **named)
    for action, resource in needed(iam_action, resource_arn) if denied is None else ():
        denied = denied or enforce(access_key_id, action, "iot", region, resource_arn=resource)
    if denied is not None or iam_action not in _KEY_ACTIONS:
        return denied
    if iam_action == "s3:GetObject" and is_missing(resource_arn):
        bucket = resource_arn.partition("/")[0]
        return enforce(access_key_id, "s3:ListBucket", "s3", region, resource_arn=bucket)
    key = bucket_key(resource_arn)
    if key is None:
        return None
    return enforce(access_key_id, _KEY_ACTIONS[iam_action], "kms", region, resource_arn=key)


def install(settings: Settings) -> None:
    """Begin the trail, if policies are evaluated at all."""
    global _trail
    if app.AUTH:
        folder = settings.home / "log"
        folder.mkdir(parents=True, exist_ok=True)
        _trail = AccessTrail(folder / FILE)
