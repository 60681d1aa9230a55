"""How the edge server gets its certificate: a function that signs for its thing alone, and the end of former ones.

The instance may call the function and nothing of AWS IoT: no action that attaches a certificate can be limited to one
thing, and whoever reaches the instance's credentials may use them for its whole life. The function names the thing and
lets one server join once; a custom resource behind the server's wait condition confirms it and takes the certificates
of the server before away, which are detached, deactivated and deleted once the new one has reported.
"""

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.certificates import certificates_of, delete_certificate, release, things_of
from edge_handlers.custom_resource import Contract, Key, RequestType, parse
from edge_handlers.device_list import JOINED, JOINING
from edge_handlers.service_client import Deadline, DeadlineError, client, describe, explaining, ignoring

LOG = logging.getLogger(__name__)
LOG.setLevel(logging.INFO)
_CSR = re.compile(
    r"-----BEGIN CERTIFICATE REQUEST-----\n[A-Za-z0-9+/=\n]{1,4000}-----END CERTIFICATE REQUEST-----\n?", re.ASCII
)
_PAUSE_S = 2.0
_ENDPOINTS = {"dataEndpoint": "iot:Data-ATS", "credentialEndpoint": "iot:CredentialProvider"}


class JoinError(ValueError):
    """The server may not join, or has not joined in time; the text says why."""


@dataclass(frozen=True)
class Server:
    """The one machine that may join.

    Attributes:
        thing: The thing that it becomes.
        group: The thing group that it joins.
        policy: IoT policy of its certificate.
        fingerprint: Of the machine; another machine has another one.
    """

    thing: str
    group: str
    policy: str
    fingerprint: str


@dataclass(frozen=True)
class Mark:
    """What the thing's attributes say of a server.

    Attributes:
        fingerprint: Of the server.
        certificate: Id of its certificate.
    """

    fingerprint: str
    certificate: str

    @classmethod
    def of(cls, thing: Mapping[str, Any], attribute: str) -> "Mark | None":
        """Read it; None where there is none."""
        fingerprint, _, certificate = str(thing.get("attributes", {}).get(attribute, "")).partition("/")
        return cls(fingerprint, certificate) if certificate else None

    def __str__(self) -> str:
        return f"{self.fingerprint}/{self.certificate}"


def on_request(event: Any, context: Any) -> dict[str, str]:  # noqa: ARG001 (Lambda's signature)
    """Answer the instance: `{"csr": PEM}` joins, `{"leave": certificate id}` takes back what has not been confirmed.

    Returns:
        For `csr`: `certificatePem`, `certificateId`, `dataEndpoint` and `credentialEndpoint`.

    Raises:
        JoinError: The request is malformed, or this server has joined.
        AwsCallError: A call was refused.
    """
    names = ("THING_NAME", "THING_GROUP", "POLICY_NAME", "FINGERPRINT")
    server = Server(*(os.environ[name] for name in names))
    asked = event if isinstance(event, Mapping) else {}
    if set(asked) == {"leave"}:
        return leave(asked["leave"], server, client("iot"))
    if set(asked) == {"csr"}:
        return join(asked["csr"], server, client("iot"))
    raise JoinError(f"a request must be an object with csr or leave alone, got {ascii(event)[:80]}")


def join(csr: object, server: Server, iot: Any) -> dict[str, str]:
    """Sign a request for the server's thing.

    Args:
        csr: A certificate request, PEM; its subject means nothing.
        server: Who may join.
        iot: A boto3 IoT client.

    Returns:
        See `on_request`.

    Raises:
        JoinError: It is no certificate request, or the server has joined.
        AwsCallError: A call was refused; a certificate that was made is deleted again.
    """
    if not isinstance(csr, str) or not _CSR.fullmatch(csr):
        raise JoinError(f"csr must be one certificate request in PEM, got {ascii(csr)[:80]}")
    with explaining(f"let {server.thing} join"):
        found = _thing(server.thing, iot)
        joined, former = Mark.of(found, JOINED), Mark.of(found, JOINING)
        if joined and joined.fingerprint == server.fingerprint:
            raise JoinError(
                f"{server.thing} must join once, server {server.fingerprint} has: replace the server by another date "
                "in edge_server.image to let a new one join"
            )
        endpoints = {
            name: iot.describe_endpoint(endpointType=kind)["endpointAddress"] for name, kind in _ENDPOINTS.items()
        }
        made = iot.create_certificate_from_csr(certificateSigningRequest=csr, setAsActive=True)
        arn, name = made["certificateArn"], made["certificateId"]
        try:
            # Two requests at a time: the version of the thing lets one of them go on.
            _note(server.thing, iot, {JOINING: str(Mark(server.fingerprint, name))}, expectedVersion=found["version"])
            iot.attach_policy(policyName=server.policy, target=arn)
            # Only then does AWS IoT know the thing whatever the client's id: the nucleus has more connections than one.
            iot.attach_thing_principal(thingName=server.thing, principal=arn, thingPrincipalType="EXCLUSIVE_THING")
            iot.add_thing_to_thing_group(thingName=server.thing, thingGroupName=server.group)
        except Exception:
            delete_certificate(arn, server.thing, iot)
            raise
        if former and former.fingerprint == server.fingerprint:
            _take_back(server.thing, former, iot)
    LOG.info("%s has the certificate %s as server %s", server.thing, name, server.fingerprint)
    return {"certificatePem": made["certificatePem"], "certificateId": name, **endpoints}


def leave(certificate: object, server: Server, iot: Any) -> dict[str, str]:
    """Delete a certificate that this server has got and that is not confirmed; any other one stays.

    Args:
        certificate: Its id.
        server: Who joined.
        iot: A boto3 IoT client.

    Raises:
        JoinError: It is not the server's, or the server is confirmed.
        AwsCallError: A call was refused.
    """
    with explaining(f"take the certificate of {server.thing} back"):
        mark = Mark.of(_thing(server.thing, iot), JOINING)
        if mark is None or mark.fingerprint != server.fingerprint or mark.certificate != certificate:
            raise JoinError(f"leave must be the id of a certificate on trial, got {ascii(certificate)[:80]}")
        _take_back(server.thing, mark, iot)
        _note(server.thing, iot, {JOINING: ""})
    return {}


@dataclass(frozen=True)
class ServerJoin(Contract):
    """The server that has told CloudFormation that it joined.

    Args:
        thing: Its thing.
        policy: IoT policy of its certificate.
        fingerprint: Of the machine.
    """

    TYPE = "Custom::ServerJoin"

    thing: Annotated[str, Key("ThingName")]
    policy: Annotated[str, Key("PolicyName")]
    fingerprint: Annotated[str, Key("Fingerprint")]

    @property
    def physical_id(self) -> str:
        """The same for the life of the thing: a new server updates the resource."""
        return f"{self.thing}/joined"


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of CloudFormation."""
    request = parse(event)
    server = ServerJoin.of(request.properties)
    if request.type is RequestType.DELETE:
        forget(server, client("iot"))
        return {"PhysicalResourceId": request.known_id}
    confirm(server, client("iot"), client("greengrassv2"), Deadline.of(context))
    return {"PhysicalResourceId": server.physical_id}


def confirm(server: ServerJoin, iot: Any, greengrass: Any, deadline: Deadline) -> None:
    """End the trial of the server that joined last: it stays, and what was there before it goes.

    The former certificates are switched off first, which can be undone, and deleted when the new server has reported
    to Greengrass. A rollback asks with the fingerprint from before: then the former ones stay, and work again.

    Args:
        server: The server of the template.
        iot: A boto3 IoT client.
        greengrass: A boto3 greengrassv2 client.
        deadline: The new server must have reported by then.

    Raises:
        JoinError: The new server has not reported in time; the former certificates work again.
        AwsCallError: A call was refused.
    """
    with explaining(f"confirm that {server.thing} has joined"):
        mark = Mark.of(_thing(server.thing, iot), JOINING)
        if mark is None:
            return
        certificates = certificates_of(server.thing, iot)
        new = next((arn for arn in certificates if arn.endswith(f"/{mark.certificate}")), None)
        former = [arn for arn in certificates if arn != new and things_of(arn, iot) == [server.thing]]
        if mark.fingerprint != server.fingerprint or new is None:
            _switch(former, "ACTIVE", iot)
            _take_back(server.thing, mark, iot)
            _note(server.thing, iot, {JOINING: ""})
            return
        if former:
            _switch(former, "INACTIVE", iot)
            try:
                _wait_for_report(server.thing, mark, iot, greengrass, deadline)
            except Exception:
                _switch(former, "ACTIVE", iot)
                raise
        if certificates != [new]:
            # One that another thing has, too, is only let go of.
            release(server.thing, server.policy, iot, lambda _thing: True, spare=new)
        _note(server.thing, iot, {JOINED: str(mark), JOINING: ""})
        LOG.info("%s: server %s stays, %d former certificates are gone", server.thing, mark.fingerprint, len(former))


def forget(server: ServerJoin, iot: Any) -> None:
    """Let a server of the same fingerprint join again once its stack is deleted; certificates are the registry's.

    Args:
        server: The server.
        iot: A boto3 IoT client.

    Raises:
        AwsCallError: A call was refused.
    """
    with explaining(f"forget the server of {server.thing}"):
        if describe(iot.describe_thing, thingName=server.thing) is not None:
            _note(server.thing, iot, {JOINED: "", JOINING: ""})


def _wait_for_report(thing: str, mark: Mark, iot: Any, greengrass: Any, deadline: Deadline) -> None:
    description = iot.describe_certificate(certificateId=mark.certificate)["certificateDescription"]
    while True:
        core = describe(greengrass.get_core_device, coreDeviceThingName=thing)
        if core and core["lastStatusUpdateTimestamp"] > description["creationDate"]:
            return
        try:
            deadline.check(f"wait for {thing}")
        except DeadlineError as exc:
            raise JoinError(
                f"{thing} must report to Greengrass as server {mark.fingerprint} before its former certificates are "
                "deleted, it has not since it joined; they work again: see the nucleus' log on the instance"
            ) from exc
        time.sleep(_PAUSE_S)


def _thing(name: str, iot: Any) -> dict[str, Any]:
    found = describe(iot.describe_thing, thingName=name)
    if found is None:
        raise JoinError(f"thing {name} must be on the register, it does not exist: deploy the fleet's stack")
    return found


def _note(thing: str, iot: Any, attributes: dict[str, str], **more: Any) -> None:
    """Write attributes; an empty value takes one away."""
    iot.update_thing(thingName=thing, attributePayload={"attributes": attributes, "merge": True}, **more)


def _take_back(thing: str, mark: Mark, iot: Any) -> None:
    for arn in certificates_of(thing, iot):
        if arn.endswith(f"/{mark.certificate}"):
            delete_certificate(arn, thing, iot)


def _switch(certificates: list[str], status: str, iot: Any) -> None:
    for arn in certificates:
        with ignoring("ResourceNotFoundException"):
            iot.update_certificate(certificateId=arn.rpartition("/")[2], newStatus=status)


handler = answering(on_event)
