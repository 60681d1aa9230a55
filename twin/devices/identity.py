"""A device's identity in the twin's account: its certificate, the authority that it trusts, the names of its cloud."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from twin.files import private_folder, write_whole

BOUNDED = Config(connect_timeout=5, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3})
CERTIFICATE, KEY, ROOT_CA = "device.pem.crt", "private.pem.key", "root_ca.pem"

Call = Callable[..., Any]
"""(operation of IoT, its arguments by name) → answer."""


@dataclass(frozen=True)
class CloudNames:
    """By which names a device finds its cloud."""

    thing: str
    region: str
    data_endpoint: str
    credential_endpoint: str
    role_alias: str


@dataclass(frozen=True)
class Certificate:
    """An active certificate and its key, both as PEM; nobody else has the key."""

    arn: str
    pem: str
    private_key: str


@dataclass(frozen=True)
class Identity(CloudNames):
    """What a device needs to join: its certificate and key (PEM), the trusted root, and the names of its cloud."""

    certificate: str
    private_key: str
    root_ca: str
    groups: tuple[str, ...]


def plainly(iot: Any) -> Call:
    """Calls of a client as they are."""
    return lambda operation, **arguments: getattr(iot, operation)(**arguments)


def cloud_names(call: Call, thing: str, region: str, role_alias: str) -> CloudNames:
    """Ask for the endpoints' names."""
    data = call("describe_endpoint", endpointType="iot:Data-ATS")["endpointAddress"]
    credential = call("describe_endpoint", endpointType="iot:CredentialProvider")["endpointAddress"]
    return CloudNames(thing, region, str(data), str(credential), role_alias)


def certificate_authority(gateway_url: str) -> str:
    """The root that the twin's certificates lead to, as PEM.

    Raises:
        OSError: If the twin cannot be reached.
    """
    with urllib.request.urlopen(f"{gateway_url}/_ministack/iot/ca.pem", timeout=20) as answer:  # noqa: S310
        return str(answer.read().decode())


def make_certificate(iot: Any, policy: str, thing: str | None = None, *, call: Call | None = None) -> Certificate:
    """Make a certificate and attach it; one that cannot be attached is deleted again.

    Args:
        iot: Client.
        policy: IoT policy that it gets.
        thing: Thing that it stands for, if any.
        call: How the calls are made, plainly by default.

    Raises:
        ClientError, BotoCoreError: If a call fails; or what `call` raises.
    """
    call = call or plainly(iot)
    made = call("create_keys_and_certificate", setAsActive=True)
    certificate = Certificate(made["certificateArn"], made["certificatePem"], made["keyPair"]["PrivateKey"])
    try:
        call("attach_policy", policyName=policy, target=certificate.arn)
        if thing is not None:
            # Only so does AWS IoT know the thing on each of its connections, and no other thing gets the certificate.
            exclusively = {"thingPrincipalType": "EXCLUSIVE_THING"}
            call("attach_thing_principal", thingName=thing, principal=certificate.arn, **exclusively)
    except BaseException:
        discard_certificate(iot, certificate.arn, policy, thing)
        raise
    return certificate


def certificate_request(name: str, *, elliptic: bool = False) -> tuple[str, str]:
    """Make a key and a request for a certificate; both as PEM.

    Args:
        name: The subject's common name.
        elliptic: A key on P-256, which is made a hundred times as fast as one of RSA.
    """
    key = (
        ec.generate_private_key(ec.SECP256R1())
        if elliptic
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return text, request.public_bytes(Encoding.PEM).decode()


def delete_certificate(call: Call, arn: str, policies: Iterable[str], thing: str | None) -> None:
    """Detach a certificate from policies and thing, and delete it."""
    identifier = arn.rsplit("/", 1)[-1]
    for policy in policies:
        call("detach_policy", policyName=policy, target=arn)
    if thing is not None:
        call("detach_thing_principal", thingName=thing, principal=arn)
    call("update_certificate", certificateId=identifier, newStatus="INACTIVE")
    call("delete_certificate", certificateId=identifier, forceDelete=True)


def discard_certificate(iot: Any, arn: str, policy: str, thing: str | None = None) -> None:
    """Delete a certificate that no device will have; steps that fail, for they were not reached, are fine."""

    def quietly(operation: str, **arguments: Any) -> None:
        with contextlib.suppress(ClientError, BotoCoreError):
            getattr(iot, operation)(**arguments)

    delete_certificate(quietly, arn, [policy], thing)


def write_credentials(folder: Path, identity: Identity) -> None:
    """Write certificate, key and trusted root into a folder, made if missing; only their owner can read them.

    Raises:
        OSError: If one cannot be written.
    """
    private_folder(folder)
    for name, text in (
        (CERTIFICATE, identity.certificate),
        (KEY, identity.private_key),
        (ROOT_CA, identity.root_ca),
    ):
        write_whole(folder / name, text, private=True)
