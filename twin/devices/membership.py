"""A device in the twin's account: thing, certificate, groups and rights; made by `join`, undone by `leave`.

The twin's own ones beside the edge servers: `up --devices N` makes them, the cloud keeps them running.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from config.names import Names
from twin import TwinError
from twin.devices.identity import (
    BOUNDED,
    CONFIG_FILE,
    CREDENTIALS,
    Identity,
    certificate_authority,
    cloud_names,
    delete_certificate,
    lite,
    make_certificate,
    plainly,
    write_credentials,
)
from twin.files import private_folder, write_whole
from twin.lifecycle import one_at_a_time
from twin.process import devices_folder, end_edge_processes
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


OWN_LIMIT = 100
DIALECTS = ("lite", "classic")
DEVICES_LOCK = "devices.lock"
_END_LIMIT_S = 20.0

Progress = Callable[[str], None]


def own_things(home: Path) -> list[str]:
    """The things of the devices in a state folder."""
    return sorted(path.parent.name for path in devices_folder(home).glob(f"*/{CONFIG_FILE}"))


def set_own_devices(
    state: TwinState,
    count: int,
    *,
    group: str | None,
    dialect: str,
    own_rights: bool = False,
    progress: Progress = lambda _text: None,
) -> list[str]:
    """Let there be exactly so many devices, `device-01` and up; those that exist are left as they are.

    Args:
        state: Of a running twin.
        count: 0 to 100; surplus devices leave, the highest numbers first.
        group: Thing group of new devices, as for `join`.
        dialect: `lite` or `classic`: whose limits and quirks a new device has.
        own_rights: As for `Membership`.
        progress: Told what happens.

    Returns:
        The things.

    Raises:
        TwinError: If a value is not allowed, or a device cannot join or leave.
    """
    check_own_devices(count, dialect)
    with one_at_a_time(state.home, DEVICES_LOCK):
        return _set_own_devices(state, count, group, dialect, own_rights=own_rights, progress=progress)


def check_own_devices(count: int, dialect: str) -> None:
    """Refuse what `set_own_devices` refuses, before a twin runs.

    Raises:
        TwinError: A value is not allowed.
    """
    if not 0 <= count <= OWN_LIMIT:
        raise TwinError(f"--devices must be from 0 to {OWN_LIMIT}, got {count}")
    if dialect not in DIALECTS:
        raise TwinError(f"--dialect must be one of {', '.join(DIALECTS)}, got {dialect!r}")


def _set_own_devices(
    state: TwinState, count: int, group: str | None, dialect: str, *, own_rights: bool, progress: Progress
) -> list[str]:
    wanted = [f"device-{number:02}" for number in range(1, count + 1)]
    membership = Membership(state, own_rights=own_rights)
    for thing in [thing for thing in _folders(state.home) if thing not in wanted]:
        progress(f"{thing} leaves")
        _remove(state, membership, thing)
    present = own_things(state.home)
    for thing in [thing for thing in wanted if thing not in present]:
        progress(f"{thing} joins")
        _add(state, membership, thing, group, dialect)
    return wanted


def _folders(home: Path) -> list[str]:
    """Of devices that have joined or began to."""
    folder = devices_folder(home)
    return sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []


def _add(state: TwinState, membership: Membership, thing: str, group: str | None, dialect: str) -> None:
    root = devices_folder(state.home) / thing
    if root.is_dir():  # an interrupted start: its key may be lost, so it begins anew
        _remove(state, membership, thing)
    private_folder(root.parent)
    private_folder(root)
    identity = membership.join(thing, group)
    write_credentials(root / CREDENTIALS, identity)
    # Written last: a folder with it is a device that has joined, and is kept running.
    write_whole(root / CONFIG_FILE, lite(identity, state.proxy_port, root=str(root), dialect=dialect), private=True)


def _remove(state: TwinState, membership: Membership, thing: str) -> None:
    root = devices_folder(state.home) / thing
    # Without its configuration the cloud's process ends the device; what is left after that is ended here.
    (root / CONFIG_FILE).unlink(missing_ok=True)
    end_edge_processes(root)
    membership.leave(thing)
    remove_folder(root, "device")


def remove_folder(folder: Path, whose: str) -> None:
    """Delete the folder of what has left; its processes may take a moment to let go of it.

    Raises:
        TwinError: It is still there after 20 s.
    """
    deadline = time.monotonic() + _END_LIMIT_S
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if time.monotonic() > deadline:
            raise TwinError(f"the folder of a {whose} that left must be deletable, got {folder}: delete it")
