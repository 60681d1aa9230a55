"""With AUTH=true: permissions that AWS asks for besides the call's own, which MiniStack leaves out.

S3 uses the bucket's KMS key with the caller's rights, and tells only those who may list a bucket that a key is missing.
A service that is handed a role asks for iam:PassRole. Greengrass works on IoT's jobs with its caller's rights.
"""

from __future__ import annotations

import re
from typing import Any

from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import get_region
from ministack.core.router import extract_access_key_id
from ministack.services import s3

from twin.cloud.greengrass.caller_rights import needed
from twin.cloud.registry import Settings

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


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Ask for what AWS asks for besides a call's own action."""
    enforce = iam_evaluator.enforce

    def enforce_implied(
        access_key_id: str, iam_action: str, service: str, region: str, resource_arn: str = "*", **named: Any
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

    iam_evaluator.enforce = enforce_implied
