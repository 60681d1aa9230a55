"""IoT policy, role alias and role of joined devices where no stage is deployed whose own could serve.

They go with the last certificate that the policy is attached to.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import boto3
from botocore.exceptions import ClientError

from twin.devices.identity import BOUNDED
from twin.state import TwinState

NAME = "twin-devices"
"""Of the policy, the role alias and the role."""

_OWN = "${iot:Connection.Thing.ThingName}"
_TRUST = {"Effect": "Allow", "Principal": {"Service": "credentials.iot.amazonaws.com"}, "Action": "sts:AssumeRole"}
_ROLE = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:GetBucketLocation", "kms:Decrypt"], "Resource": "*"}


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _policy(region: str, account: str) -> str:
    """A device acts as its own thing; the topics of components, which are not known here, are free but for `$aws`."""
    prefix = f"arn:aws:iot:{region}:{account}"
    own = f"$aws/things/{_OWN}/*"
    data_plane = ("GetComponentVersionArtifact", "GetDeploymentConfiguration", "ListThingGroupsForCoreDevice")
    reserved = [f"{prefix}:topic/$aws/*", f"{prefix}:topicfilter/$aws/*", f"{prefix}:topicfilter/#"]
    reserved += [f"{prefix}:topicfilter/+/*", f"{prefix}:topicfilter/+"]
    own_topics = [f"{prefix}:topic/{own}", f"{prefix}:topicfilter/{own}"]
    return _document(
        {
            "Effect": "Allow",
            "Action": "iot:Connect",
            "Resource": [f"{prefix}:client/{_OWN}", f"{prefix}:client/{_OWN}#*"],
        },
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Subscribe", "iot:Receive"], "Resource": own_topics},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "NotResource": reserved},
        {"Effect": "Allow", "Action": "iot:Subscribe", "NotResource": reserved},
        {"Effect": "Allow", "Action": "iot:AssumeRoleWithCertificate", "Resource": f"{prefix}:rolealias/{NAME}"},
        {
            "Effect": "Allow",
            "Action": [f"greengrass:{name}" for name in (*data_plane, "ResolveComponentCandidates")],
            "Resource": "*",
        },
    )


def _clients(state: TwinState) -> tuple[Any, Any]:
    iot, iam = (boto3.client(name, config=BOUNDED, **state.client_arguments()) for name in ("iot", "iam"))
    return iot, iam


def make(state: TwinState) -> None:
    """Make all three; what is there stays.

    Raises:
        ClientError, BotoCoreError: If a call fails.
    """
    iot, iam = _clients(state)
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=NAME, AssumeRolePolicyDocument=_document(_TRUST))
    iam.put_role_policy(RoleName=NAME, PolicyName="artifacts", PolicyDocument=_document(_ROLE))
    role = iam.get_role(RoleName=NAME)["Role"]["Arn"]
    with contextlib.suppress(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_role_alias(roleAlias=NAME, roleArn=role)
    with contextlib.suppress(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_policy(policyName=NAME, policyDocument=_policy(state.region, state.account))


def remove_unused(state: TwinState) -> None:
    """Delete all three unless a certificate still has the policy; what is gone already is fine.

    Raises:
        ClientError, BotoCoreError: If a call fails for another reason.
    """
    iot, iam = _clients(state)
    try:
        if iot.list_targets_for_policy(policyName=NAME)["targets"]:
            return
    except iot.exceptions.ResourceNotFoundException:
        return
    for operation, names in (
        (iot.delete_role_alias, {"roleAlias": NAME}),
        (iam.delete_role_policy, {"RoleName": NAME, "PolicyName": "artifacts"}),
        (iam.delete_role, {"RoleName": NAME}),
        # Last: it tells the next run that there is something to remove.
        (iot.delete_policy, {"policyName": NAME}),
    ):
        try:
            operation(**names)
        except ClientError as exc:
            if exc.response["Error"]["Code"] not in ("ResourceNotFoundException", "NoSuchEntity"):
                raise
