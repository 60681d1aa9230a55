"""What templates meet and MiniStack has otherwise: buckets, instance profiles, the public parameters of images."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from ministack.core.responses import get_account_id, get_region
from ministack.services import iam, s3

from twin.cloud.ministack.patches import patch

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
