"""A device in the twin's account: thing, certificate, groups and rights; made by `join`, undone by `leave`."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from config.names import Names
from twin import TwinError
from twin.devices.identity import (
    BOUNDED,
    Identity,
    certificate_authority,
    cloud_names,
    delete_certificate,
    make_certificate,
    plainly,
)
from twin.state import TwinState

_MARK = {"madeBy": "twin-join"}
"""Attribute of the things and groups that `join` made: `leave` touches no others."""

_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")


SHARED_RIGHTS = "twin-devices"
"""IoT policy, role alias and role of joined devices where no stage is deployed whose own could serve.

They go with the last certificate that the policy is attached to.
"""

_OWN = "${iot:Connection.Thing.ThingName}"
_TRUST = {"Effect": "Allow", "Principal": {"Service": "credentials.iot.amazonaws.com"}, "Action": "sts:AssumeRole"}
_ROLE = {
    "Effect": "Allow",
    "Action": [
        "s3:GetObject",
        "s3:GetBucketLocation",
        "kms:Decrypt",
        "greengrass:ListClientDevicesAssociatedWithCoreDevice",
    ],
    "Resource": "*",
}


class Membership:
    """The IoT and Greengrass calls of joining and leaving.

    Attributes:
        MARK: Attribute of what `join` made.
        iot: Client.

    Args:
        state: Of a running twin.
        stage: Whose role alias, policy and thing group a device gets where `cdk deploy` has made them.
        own_rights: The twin's own role alias and policy in place of the stage's: those of a core device with client
            devices, which a stage's policy allows only where it has `[client_devices]`.
    """

    MARK = _MARK

    def __init__(self, state: TwinState, stage: str = "twin", *, own_rights: bool = False) -> None:
        self._state, self._names, self._own_rights = state, Names(stage), own_rights
        self.iot = boto3.client("iot", config=BOUNDED, **state.client_arguments())
        self._greengrass = boto3.client("greengrassv2", config=BOUNDED, **state.client_arguments())

    def join(self, thing: str, group: str | None = None) -> Identity:
        """Make thing, certificate and attachments; a failure half way takes back what was made.

        Args:
            thing: Name of the thing, which must not exist.
            group: Thing group, made if missing; by default that of the stage if it is deployed, else none.

        Returns:
            The identity; the private key is not kept anywhere else.

        Raises:
            TwinError: If the name breaks the rule or is taken, or a call fails.
        """
        if not _THING_NAME.fullmatch(thing):
            raise TwinError(f"THING must be 1 to 124 of letters, digits, ':', '_', '-', got {thing!r}")
        if self._thing_attributes(thing) is not None:
            raise TwinError(f"THING must be new, got {thing}, which exists: `python -m twin leave {thing}`, or another")
        with _explained(f"joining {thing}"):
            try:
                return self._join(thing, group)
            except BaseException:
                with contextlib.suppress(ClientError, BotoCoreError):
                    self._remove(thing)
                raise

    def _join(self, thing: str, group: str | None) -> Identity:
        policy, alias, groups = self._prepare(group)
        self.iot.create_thing(thingName=thing, attributePayload={"attributes": _MARK})
        certificate = make_certificate(self.iot, policy, thing)
        for name in groups:
            self.iot.add_thing_to_thing_group(thingName=thing, thingGroupName=name)
        names = cloud_names(plainly(self.iot), thing, self._state.region, alias)
        return Identity(
            **asdict(names),
            certificate=certificate.pem,
            private_key=certificate.private_key,
            root_ca=certificate_authority(self._state.gateway_url),
            groups=tuple(groups),
        )

    def prepare(self, group: str | None = None) -> tuple[str, str, list[str]]:
        """Make what devices need besides their things.

        Args:
            group: As for `join`.

        Returns:
            IoT policy, role alias, and the groups that a device comes into.

        Raises:
            TwinError: If a call fails.
        """
        with _explained("the preparation of devices"):
            return self._prepare(group)

    def _prepare(self, group: str | None) -> tuple[str, str, list[str]]:
        policy, alias = self._rights()
        groups = [group] if group else [self._names.thing_group] if self._group_exists(self._names.thing_group) else []
        for name in groups:
            if not self._group_exists(name):
                properties = {"attributePayload": {"attributes": _MARK}}
                self.iot.create_thing_group(thingGroupName=name, thingGroupProperties=properties)
        return policy, alias, groups

    def clean(self) -> None:
        """Take away the groups and rights that `join` made and nobody needs any more.

        Raises:
            TwinError: If a call fails.
        """
        with _explained("cleaning up after devices"):
            for page in self.iot.get_paginator("list_thing_groups").paginate():
                for found in page["thingGroups"]:
                    self._delete_empty_group(found["groupName"])
            _remove_unused_rights(self._state)

    def leave(self, thing: str) -> bool:
        """Undo `join`: core device, deployments to the thing, certificates, thing, and rights and groups nobody needs.

        Returns:
            Whether there was such a thing.

        Raises:
            TwinError: If the thing was made by somebody else, or a call fails.
        """
        attributes = self._thing_attributes(thing)
        if attributes is not None and attributes.get("madeBy") != _MARK["madeBy"]:
            raise TwinError(f"THING must be one that `join` made, got {thing}: delete it where it was made")
        with _explained(f"leaving of {thing}"):
            self._remove(thing)
        return attributes is not None

    def _remove(self, thing: str) -> None:
        account = self._state.account
        target = f"arn:aws:iot:{self._state.region}:{account}:thing/{thing}"
        for deployment in self._deployments(target):
            with _missing_is_fine("ConflictException"):
                self._greengrass.cancel_deployment(deploymentId=deployment)
            with _missing_is_fine():
                self._greengrass.delete_deployment(deploymentId=deployment)
        with _missing_is_fine():
            self._greengrass.delete_core_device(coreDeviceThingName=thing)
        groups: list[str] = []
        with _missing_is_fine():
            groups = [g["groupName"] for g in self.iot.list_thing_groups_for_thing(thingName=thing)["thingGroups"]]
        principals: list[str] = []
        with _missing_is_fine():
            principals = self.iot.list_thing_principals(thingName=thing)["principals"]
        for principal in principals:
            policies = self.iot.list_attached_policies(target=principal)["policies"]
            delete_certificate(plainly(self.iot), principal, [each["policyName"] for each in policies], thing)
        with _missing_is_fine():
            self.iot.delete_thing(thingName=thing)
        for group in groups:
            self._delete_empty_group(group)
        _remove_unused_rights(self._state)

    def _delete_empty_group(self, group: str) -> None:
        found = self.iot.describe_thing_group(thingGroupName=group)
        attributes = found.get("thingGroupProperties", {}).get("attributePayload", {}).get("attributes", {})
        needed = self.iot.list_things_in_thing_group(thingGroupName=group)["things"]
        if attributes == _MARK and not needed and not self._deployments(found["thingGroupArn"]):
            self.iot.delete_thing_group(thingGroupName=group)

    def _deployments(self, target: str) -> list[str]:
        pages = self._greengrass.get_paginator("list_deployments").paginate(targetArn=target, historyFilter="ALL")
        return [entry["deploymentId"] for page in pages for entry in page["deployments"]]

    def _rights(self) -> tuple[str, str]:
        """IoT policy and role alias: those of the deployed stage, else the twin's own."""
        if self._own_rights:
            _make_rights(self._state)
            return SHARED_RIGHTS, SHARED_RIGHTS
        aliases = self.iot.list_role_aliases()["roleAliases"]
        policies = [p["policyName"] for p in self.iot.list_policies(pageSize=250)["policies"]]
        if self._names.role_alias in aliases and self._names.iot_policy in policies:
            return self._names.iot_policy, self._names.role_alias
        _make_rights(self._state)
        return SHARED_RIGHTS, SHARED_RIGHTS

    def _thing_attributes(self, thing: str) -> dict[str, str] | None:
        try:
            attributes: dict[str, str] = self.iot.describe_thing(thingName=thing).get("attributes", {})
        except self.iot.exceptions.ResourceNotFoundException:
            return None
        except (ClientError, BotoCoreError) as exc:
            raise TwinError(f"thing {thing} must be readable, got: {exc}") from exc
        return attributes

    def _group_exists(self, name: str) -> bool:
        try:
            self.iot.describe_thing_group(thingGroupName=name)
        except self.iot.exceptions.ResourceNotFoundException:
            return False
        return True


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError, OSError) as exc:
        raise TwinError(f"{what} must be possible, got: {exc}: see `python -m twin logs cloud`") from exc


@contextlib.contextmanager
def _missing_is_fine(*also: str) -> Iterator[None]:
    try:
        yield
    except ClientError as exc:
        if exc.response["Error"]["Code"] not in ("ResourceNotFoundException", *also):
            raise


def _document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _policy(region: str, account: str) -> str:
    """A device acts as its own thing; the topics of components, which are not known here, are free but for `$aws`."""
    prefix = f"arn:aws:iot:{region}:{account}"
    own = f"$aws/things/{_OWN}/*"
    data_plane = ("GetComponentVersionArtifact", "GetDeploymentConfiguration", "ListThingGroupsForCoreDevice")
    clients = ("VerifyClientDevice*", "PutCertificateAuthorities", "GetConnectivityInfo", "UpdateConnectivityInfo")
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
        {
            "Effect": "Allow",
            "Action": "iot:AssumeRoleWithCertificate",
            "Resource": f"{prefix}:rolealias/{SHARED_RIGHTS}",
        },
        {
            "Effect": "Allow",
            "Action": [f"greengrass:{name}" for name in (*data_plane, "ResolveComponentCandidates", *clients)],
            "Resource": "*",
        },
    )


def _clients(state: TwinState) -> tuple[Any, Any]:
    iot, iam = (boto3.client(name, config=BOUNDED, **state.client_arguments()) for name in ("iot", "iam"))
    return iot, iam


def _make_rights(state: TwinState) -> None:
    """Make all three; what is there stays.

    Raises:
        ClientError, BotoCoreError: If a call fails.
    """
    iot, iam = _clients(state)
    with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=SHARED_RIGHTS, AssumeRolePolicyDocument=_document(_TRUST))
    iam.put_role_policy(RoleName=SHARED_RIGHTS, PolicyName="artifacts", PolicyDocument=_document(_ROLE))
    role = iam.get_role(RoleName=SHARED_RIGHTS)["Role"]["Arn"]
    with contextlib.suppress(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_role_alias(roleAlias=SHARED_RIGHTS, roleArn=role)
    with contextlib.suppress(iot.exceptions.ResourceAlreadyExistsException):
        iot.create_policy(policyName=SHARED_RIGHTS, policyDocument=_policy(state.region, state.account))


def _remove_unused_rights(state: TwinState) -> None:
    """Delete all three unless a certificate still has the policy; what is gone already is fine.

    Raises:
        ClientError, BotoCoreError: If a call fails for another reason.
    """
    iot, iam = _clients(state)
    try:
        if iot.list_targets_for_policy(policyName=SHARED_RIGHTS)["targets"]:
            return
    except iot.exceptions.ResourceNotFoundException:
        return
    for operation, names in (
        (iot.delete_role_alias, {"roleAlias": SHARED_RIGHTS}),
        (iam.delete_role_policy, {"RoleName": SHARED_RIGHTS, "PolicyName": "artifacts"}),
        (iam.delete_role, {"RoleName": SHARED_RIGHTS}),
        # Last: it tells the next run that there is something to remove.
        (iot.delete_policy, {"policyName": SHARED_RIGHTS}),
    ):
        try:
            operation(**names)
        except ClientError as exc:
            if exc.response["Error"]["Code"] not in ("ResourceNotFoundException", "NoSuchEntity"):
                raise
