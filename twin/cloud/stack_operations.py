"""How stack operations go: answered once they have ended, stopped by a delete, failures and kills cleaned up.

The CDK command line looks at a stack's state at once and then every five seconds. AWS answers before the operation has
begun, so each level of stacks costs up to five seconds of waiting for nothing; here most operations take less than one.

And what templates meet and MiniStack has otherwise: buckets, instance profiles, the public parameters of images.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from ministack.core.responses import get_account_id, get_region
from ministack.services import cloudformation, iam, lambda_svc, s3

from twin.cloud.ministack.patches import patch, require
from twin.cloud.ministack.registry import Response, register_background
from twin.cloud_process import Settings

logger = logging.getLogger("twin.stack_operations")

HOLD_S = 30.0
"""Longest wait, well below the minute after which AWS clients give a call up; the operation goes on after it, and the
caller looks again as with AWS."""

_LOOK_S = 0.02
_OPERATIONS = frozenset(("CreateStack", "UpdateStack", "DeleteStack", "ExecuteChangeSet"))
_NOT_BEGUN = "REVIEW_IN_PROGRESS"
_INCOMPLETE = (
    b"<StatusReason>[WARN] --include-property-values option can return incomplete ChangeSet data because: "
    b"the twin has no property values</StatusReason>"
)


def under_way(name: str) -> bool:
    """Whether an operation on a stack is under way.

    Args:
        name: The stack's name or ARN.
    """
    return any(
        name in (stack.get("StackName"), stack.get("StackId"))
        and str(stack.get("StackStatus", "")).endswith("_IN_PROGRESS")
        and stack["StackStatus"] != _NOT_BEGUN
        for stack in list(cloudformation._stacks.values())
    )


@patch(
    "app.SERVICE_HANDLERS[cloudformation]",
    why="the answers that the CDK command line waits for are held until the operation has ended",
    signature="async (method, path, headers, body, query_params)",
)
async def _answer_late(
    answer: Callable[..., Awaitable[Response]],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query: dict[str, list[str]],
) -> Response:
    response = await answer(method, path, headers, body, query)
    action, name = _asked(body, query)
    if response[0] < 400 and action in _OPERATIONS and name:
        await _hold(name)
    if response[0] == 200 and action == "DescribeChangeSet":
        return _told_incomplete(response)
    return response


def _told_incomplete(described: Response) -> Response:
    """A created change set's description as AWS marks one that may lack changes; what is asked for next has them all.

    MiniStack gives no property values, so the command line would load CloudFormation's whole specification, for most of
    a second, to compare the templates itself and ask again where they differ. Of a marked one it asks again at once.
    """
    status, headers, text = described
    content = text.encode() if isinstance(text, str) else text
    if b"<Status>CREATE_COMPLETE</Status>" in content:
        content = content.replace(b"<StatusReason></StatusReason>", _INCOMPLETE, 1)
    return status, headers, content


async def _hold(name: str) -> None:
    try:
        async with asyncio.timeout(HOLD_S):
            await asyncio.sleep(_LOOK_S)  # the operation begins in a task of its own
            while under_way(name):
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return


def _asked(body: bytes, query: dict[str, list[str]]) -> tuple[str, str]:
    """Action and stack of a request in the query protocol; empty where it names none."""
    fields = {**query, **parse_qs(body.decode("utf-8", "replace"))}
    first = {key: value[0] if isinstance(value, list) else value for key, value in fields.items() if value}
    return first.get("Action", ""), first.get("StackName", "")


Invoke = Callable[..., tuple[str, dict[str, Any]]]

_failed_creates: dict[tuple[str, str], str] = {}
"""Physical ids in answers of failure, until the invocation that waits for them has ended."""


@patch(
    "services.cloudformation.custom_resource.deliver_response",
    why="what a custom resource that fails has made is known by its physical id",
    signature="(token, response)",
)
def deliver_response(deliver: Callable[..., bool], token: str, response: dict[str, Any]) -> bool:
    """Take a handler's answer in."""
    if response.get("Status") == "FAILED" and response.get("PhysicalResourceId"):
        key = (str(response.get("StackId")), str(response.get("LogicalResourceId")))
        _failed_creates[key] = response["PhysicalResourceId"]
    return deliver(token, response)


require(
    "services.lambda_svc._get_func_record_for_ref",
    why="a handler without code is no handler",
    signature="(function_ref)",
)


@patch(
    "services.cloudformation.custom_resource.invoke_custom_resource",
    why="a custom resource that fails to be created is deleted again, for it has begun its work; MiniStack deletes "
    "only what was created",
    signature="(request_type, logical_id, props, stack_name, stack_id, resource_type, physical_id=None, "
    "old_props=None)",
)
def invoke_custom_resource(
    invoke: Invoke,
    request_type: str,
    logical_id: str,
    props: dict[str, Any],
    stack_name: str,
    stack_id: str,
    resource_type: str,
    *arguments: Any,
    **named: Any,
) -> tuple[str, dict[str, Any]]:
    """Call a handler, on a worker thread."""
    event = (logical_id, props, stack_name, stack_id, resource_type)
    record, _configuration, function = lambda_svc._get_func_record_for_ref(str(props.get("ServiceToken", "")))
    if record and not record.get("code_zip"):
        # MiniStack would answer for it, and wait an hour for what the code should have said.
        raise RuntimeError(f"the code of {function} is lost: deploy its stack again")
    try:
        return invoke(request_type, *event, *arguments, **named)
    except RuntimeError:
        physical_id = _failed_creates.pop((stack_id, logical_id), None)
        if request_type == "Create" and physical_id:
            _delete(invoke, event, physical_id)
        raise


def _delete(invoke: Invoke, event: tuple[Any, ...], physical_id: str) -> None:
    """Send the Delete; one that fails is logged, for the first error is the stack's."""
    try:
        invoke("Delete", *event, physical_id=physical_id)
    except (RuntimeError, TimeoutError, ValueError) as exc:
        logger.warning("%s, which could not be created, could not be deleted either: %s", physical_id, exc)


_FAILED_STATES = {
    # In this state the CDK deletes a stack and creates it anew; of CREATE_FAILED it asks a terminal what to do.
    "CREATE_IN_PROGRESS": "ROLLBACK_FAILED",
    "ROLLBACK_IN_PROGRESS": "ROLLBACK_FAILED",
    "REVIEW_IN_PROGRESS": "REVIEW_IN_PROGRESS",
    "UPDATE_IN_PROGRESS": "UPDATE_FAILED",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_IN_PROGRESS": "UPDATE_ROLLBACK_FAILED",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_ROLLBACK_COMPLETE",
    "DELETE_IN_PROGRESS": "DELETE_FAILED",
}
_REASON = "The twin's cloud stopped during the operation; deploy (after an update: cdk rollback first) or destroy again"


def fail_interrupted(stack: dict[str, Any]) -> bool:
    """Give a stack in a state that only a running operation can leave the failed state of that operation.

    Args:
        stack: MiniStack's record; changed in place.

    Returns:
        Whether it was changed.
    """
    status = stack.get("StackStatus", "")
    failed = _FAILED_STATES.get(status, status)
    if failed == status:
        return False
    stack["StackStatus"] = failed
    stack["StackStatusReason"] = _REASON
    for resource in (stack.get("_resources") or {}).values():
        state = str(resource.get("ResourceStatus", ""))
        if state.endswith("_IN_PROGRESS"):
            resource["ResourceStatus"] = state.replace("_IN_PROGRESS", "_FAILED")
    return True


async def _fail_all() -> None:
    for key, stack in list(cloudformation._stacks._data.items()):
        before = stack.get("StackStatus")
        if fail_interrupted(stack):
            logger.warning("stack %s was %s when the cloud stopped: now %s", key[-1], before, stack["StackStatus"])


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Look at the stacks once, right after the persisted state is loaded."""
    register_background("interrupted stacks", start=_fail_all)


_TYPES = "services.cloudformation.provisioners._RESOURCE_HANDLERS"
_BUCKET, _PROFILE = f"{_TYPES}[AWS::S3::Bucket]", f"{_TYPES}[AWS::IAM::InstanceProfile]"
_CREATE, _DELETE = "(logical_id, props, stack_name)", "(physical_id, props)"

_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_IMAGES = {"x86_64": "ami-0c2023a1b2c3d4e5f", "arm64": "ami-0c2023a1b2c3d4e5a"}
_KERNELS = ("default", "6.1", "6.12")
_UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{}/hvm/ebs-gp3/ami-id"
_IMAGE_FOLDER = "/aws/service/ami-amazon-linux-latest"

Properties = dict[str, Any]
Made = tuple[str, dict[str, Any]]
"""Physical id and attributes."""


@patch(f"{_BUCKET}[create]", why="tags, encryption and lifecycle are set", signature=_CREATE)
def _create_bucket(create: Callable[..., Made], logical_id: str, properties: Properties, stack_name: str) -> Made:
    bucket, attributes = create(logical_id, properties, stack_name)
    _apply(bucket, properties)
    return bucket, attributes


@patch(
    f"{_BUCKET}[update]",
    why="tags, encryption and lifecycle are set",
    signature="(physical_id, old_props, new_props, stack_name)",
)
def _update_bucket(update: Callable[..., Made], bucket: str, old: Properties, new: Properties, *rest: Any) -> Made:
    bucket, attributes = update(bucket, old, new, *rest)
    _apply(bucket, new)
    return bucket, attributes


@patch(f"{_BUCKET}[delete]", why="a bucket with objects is not deleted", signature=_DELETE)
def _delete_bucket(_delete: Callable[..., Any], bucket: str, _properties: Properties) -> None:
    status, _headers, body = s3._delete_bucket(bucket)
    if status < 400 or status == 404:
        return
    code = re.search(rb"<Code>([^<]+)", body)
    message = re.search(rb"<Message>([^<]+)", body)
    raise ValueError(
        f"{(message[1] if message else body).decode()} (Service: S3, Status Code: {status}, Error Code: "
        f"{(code[1] if code else b'Unknown').decode()}, bucket: {bucket})"
    )


def _apply(bucket: str, properties: dict[str, Any]) -> None:
    """Set what MiniStack's provisioner leaves out; a property that is gone is taken back."""
    # CDK's auto-delete custom resource deletes nothing in a bucket without its tag.
    s3._bucket_tags.pop(bucket, None)
    if properties.get("Tags"):
        s3._bucket_tags[bucket] = {tag["Key"]: tag["Value"] for tag in properties["Tags"]}
    rules = (properties.get("BucketEncryption") or {}).get("ServerSideEncryptionConfiguration") or []
    s3._bucket_encryption.pop(bucket, None)
    if rules:
        s3._bucket_encryption[bucket] = _encryption_xml(rules)
    s3._bucket_lifecycle.pop(bucket, None)
    if lifecycle := (properties.get("LifecycleConfiguration") or {}).get("Rules"):
        s3._bucket_lifecycle[bucket] = [_lifecycle_rule(rule) for rule in lifecycle]


def _lifecycle_rule(rule: Properties) -> Properties:
    """A template's rule as MiniStack keeps those of PutBucketLifecycleConfiguration."""
    made: Properties = {"Status": rule["Status"], "Filter": {"Prefix": rule.get("Prefix", "")}}
    if rule.get("Id"):
        made["ID"] = rule["Id"]
    if rule.get("ExpirationInDays"):
        made["Expiration"] = {"Days": int(rule["ExpirationInDays"])}
    elif rule.get("ExpiredObjectDeleteMarker"):
        made["Expiration"] = {"ExpiredObjectDeleteMarker": True}
    if rule.get("Transitions"):
        made["Transitions"] = [
            {"Days": int(each["TransitionInDays"]), "StorageClass": each["StorageClass"]}
            for each in rule["Transitions"]
            if "TransitionInDays" in each
        ]
    if rule.get("NoncurrentVersionExpiration"):
        made["NoncurrentVersionExpiration"] = {
            name: int(value) for name, value in rule["NoncurrentVersionExpiration"].items()
        }
    if rule.get("AbortIncompleteMultipartUpload"):
        days = int(rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"])
        made["AbortIncompleteMultipartUpload"] = {"DaysAfterInitiation": days}
    return made


def _encryption_xml(rules: list[dict[str, Any]]) -> str:
    items = []
    for rule in rules:
        default = rule.get("ServerSideEncryptionByDefault") or {}
        key = default.get("KMSMasterKeyID")
        items.append(
            "<Rule><ApplyServerSideEncryptionByDefault>"
            f"<SSEAlgorithm>{escape(str(default.get('SSEAlgorithm', 'AES256')))}</SSEAlgorithm>"
            + (f"<KMSMasterKeyID>{escape(str(key))}</KMSMasterKeyID>" if key else "")
            + "</ApplyServerSideEncryptionByDefault>"
            f"<BucketKeyEnabled>{str(rule.get('BucketKeyEnabled', False)).lower()}</BucketKeyEnabled></Rule>"
        )
    body = "".join(items)
    return f'<ServerSideEncryptionConfiguration xmlns="{_NAMESPACE}">{body}</ServerSideEncryptionConfiguration>'


@patch(
    "services.s3._resolve_sse_write_headers",
    why="aws:kms without a key means the account's key for S3, as on AWS: the CDK command line uploads assets so",
    signature="(headers, bucket_name)",
)
def _resolve_encryption(resolve: Callable[..., Any], headers: dict[str, str], bucket: str) -> Any:
    if headers.get("x-amz-server-side-encryption") == "aws:kms" and _KEY_HEADER not in headers:
        key = f"arn:aws:kms:{get_region()}:{get_account_id()}:alias/aws/s3"
        headers = {**headers, _KEY_HEADER: key}
    return resolve(headers, bucket)


def _profile_name(arn: str) -> str:
    return arn.rsplit("/", 1)[-1]


def _profile_arn(name: str) -> str:
    profile = iam._instance_profiles.get(name)
    return str(profile["Arn"]) if profile else name


@patch(f"{_PROFILE}[create]", why="Ref is the profile's name, not its ARN", signature=_CREATE)
def _create_profile(create: Callable[..., Made], *arguments: Any) -> Made:
    arn, attributes = create(*arguments)
    return _profile_name(arn), attributes


@patch(
    f"{_PROFILE}[update]",
    why="Ref is the profile's name, not its ARN",
    signature="(physical_id, old_props, new_props, stack_name, logical_id=None)",
)
def _update_profile(update: Callable[..., Made], name: str, *rest: Any, **named: Any) -> Made:
    arn, attributes = update(_profile_arn(name), *rest, **named)
    return _profile_name(arn), attributes


@patch(f"{_PROFILE}[delete]", why="Ref is the profile's name, not its ARN", signature=_DELETE)
def _delete_profile(delete: Callable[..., Any], name: str, properties: Properties) -> None:
    delete(_profile_arn(name), properties)


@patch(
    "services.ssm._PUBLIC_AMI_PARAMETERS",
    why="public parameters name the current images of Amazon Linux 2023 and Ubuntu 24.04",
    signature="dict",
)
def _image_parameters(by_ministack: dict[str, str]) -> dict[str, str]:
    by_ministack.update(
        {
            f"{_IMAGE_FOLDER}/al2023-ami-{variant}kernel-{kernel}-{architecture}": image
            for variant in ("", "minimal-")
            for kernel in _KERNELS
            for architecture, image in _IMAGES.items()
        }
        | {_UBUNTU.format(name): _IMAGES[machine] for name, machine in (("amd64", "x86_64"), ("arm64", "arm64"))}
    )
    return by_ministack
