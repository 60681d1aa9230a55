"""AWS::S3::Bucket as CloudFormation treats it: tags and encryption are set, a bucket with objects is not deleted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from ministack.core.responses import get_account_id, get_region
from ministack.services import s3
from ministack.services.cloudformation import provisioners

from twin.cloud.registry import Settings

_KEY_HEADER = "x-amz-server-side-encryption-aws-kms-key-id"
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


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


def _delete(bucket: str, properties: dict[str, Any]) -> None:  # noqa: ARG001 - the provisioner's signature
    status, _headers, body = s3._delete_bucket(bucket)
    if status < 400 or status == 404:
        return
    code = re.search(rb"<Code>([^<]+)", body)
    message = re.search(rb"<Message>([^<]+)", body)
    raise ValueError(
        f"{(message[1] if message else body).decode()} (Service: S3, Status Code: {status}, Error Code: "
        f"{(code[1] if code else b'Unknown').decode()}, bucket: {bucket})"
    )


def _with_account_key(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """Let `aws:kms` without a key mean the account's key for S3, as on AWS: the CDK command line uploads assets so."""

    def resolve_sse(headers: dict[str, str], bucket: str) -> Any:
        if headers.get("x-amz-server-side-encryption") == "aws:kms" and _KEY_HEADER not in headers:
            key = f"arn:aws:kms:{get_region()}:{get_account_id()}:alias/aws/s3"
            headers = {**headers, _KEY_HEADER: key}
        return resolve(headers, bucket)

    return resolve_sse


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Complete MiniStack's bucket provisioner."""
    s3._resolve_sse_write_headers = _with_account_key(s3._resolve_sse_write_headers)
    handler = provisioners._RESOURCE_HANDLERS["AWS::S3::Bucket"]
    create_bucket, update_bucket = handler["create"], handler["update"]

    def create(logical_id: str, properties: dict[str, Any], stack_name: str) -> tuple[str, dict[str, Any]]:
        bucket, attributes = create_bucket(logical_id, properties, stack_name)
        _apply(bucket, properties)
        return bucket, attributes

    def update(bucket: str, old: dict[str, Any], new: dict[str, Any], *rest: Any) -> tuple[str, dict[str, Any]]:
        bucket, attributes = update_bucket(bucket, old, new, *rest)
        _apply(bucket, new)
        return bucket, attributes

    handler.update(create=create, update=update, delete=_delete)
