"""A device's identity in the twin's account: its certificate, the authority that it trusts, the names of its cloud.

And the files by which a nucleus finds the twin: nucleus lite's `config.yaml`, the classic installer's, `join`'s folder.
AWS's host names are reached through the twin's CONNECT proxy, so neither hosts file nor trust store changes.
"""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from twin import TwinError
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


CONFIG_FILE, CLASSIC_CONFIG_FILE = "config.yaml", "config-classic.yaml"
CREDENTIALS = "credentials"
"""Folder of the three files, below the nucleus' root folder and in the bundle alike."""

COMPONENT_USER = "gg_component"
LITE_ROOT, CLASSIC_ROOT = "/var/lib/greengrass", "/greengrass/v2"
#: A nucleus' credential endpoint is on the device itself: components must not ask the proxy for it.
NO_PROXY = "127.0.0.1,localhost"
_LITE, _CLASSIC = "aws.greengrass.NucleusLite", "aws.greengrass.Nucleus"


def lite(
    names: CloudNames,
    proxy_port: int,
    *,
    root: str = LITE_ROOT,
    credentials: str | None = None,
    dialect: str | None = None,
) -> str:
    """`/etc/greengrass/config.yaml` of nucleus lite.

    Args:
        names: Of the device's cloud.
        proxy_port: The twin's CONNECT proxy, as the device reaches it on its own 127.0.0.1.
        root: The nucleus' root folder.
        credentials: Folder of certificate, key and trusted root; by default `credentials` in the root folder.
        dialect: Only for the twin's own core device: whose limits it keeps.
    """
    configuration: dict[str, Any] = {
        "awsRegion": names.region,
        "iotCredEndpoint": names.credential_endpoint,
        "iotDataEndpoint": names.data_endpoint,
        "iotRoleAlias": names.role_alias,
        "greengrassDataPlanePort": "8443",
        "networkProxy": {"noProxyAddresses": NO_PROXY, "proxy": {"url": _proxy_url(proxy_port)}},
        **(
            {"runWithDefault": {"posixUser": f"{COMPONENT_USER}:{COMPONENT_USER}"}}
            if dialect is None
            else {"dialect": dialect}
        ),
    }
    return _document(names, root, "rootPath", credentials, _LITE, configuration)


def classic(names: CloudNames, proxy_port: int, *, root: str = CLASSIC_ROOT) -> str:
    """The file for `--init-config` of the classic nucleus' installer; arguments as of `lite`."""
    configuration = {
        "awsRegion": names.region,
        "iotRoleAlias": names.role_alias,
        "iotDataEndpoint": names.data_endpoint,
        "iotCredEndpoint": names.credential_endpoint,
        "greengrassDataPlanePort": 8443,
        "mqtt": {"port": 8883},
        "networkProxy": {"noProxyAddresses": NO_PROXY, "proxy": {"url": _proxy_url(proxy_port)}},
    }
    return _document(names, root, "rootpath", None, _CLASSIC, configuration)


def _document(
    names: CloudNames,
    root: str,
    root_key: str,
    credentials: str | None,
    nucleus: str,
    configuration: dict[str, Any],
) -> str:
    folder = credentials or f"{root}/{CREDENTIALS}"
    document = {
        "system": {
            "privateKeyPath": f"{folder}/{KEY}",
            "certificateFilePath": f"{folder}/{CERTIFICATE}",
            "rootCaPath": f"{folder}/{ROOT_CA}",
            root_key: root,
            "thingName": names.thing,
        },
        "services": {nucleus: {"componentType": "NUCLEUS", "configuration": configuration}},
    }
    return yaml.safe_dump(document, sort_keys=False)


def _proxy_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def points_at(path: Path, proxy_port: int, dialect: str) -> bool:
    """Whether a `config.yaml` of the twin's own core device is there, of this dialect, and reaches the twin."""
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        own = config["services"][_LITE]["configuration"]
        return bool(_proxy(config)["url"] == _proxy_url(proxy_port) and own.get("dialect") == dialect)
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        return False


def point_at(path: Path, proxy_port: int) -> bool:
    """Let a `config.yaml` of nucleus lite reach the twin by this port.

    Returns:
        Whether it was another one.

    Raises:
        OSError: If it cannot be read or written.
        ValueError: If it is no configuration of nucleus lite.
    """
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        proxy = _proxy(config)
    except (yaml.YAMLError, KeyError, TypeError) as exc:
        raise ValueError(f"{path} must be a configuration of nucleus lite: {exc!r}") from exc
    if proxy.get("url") == _proxy_url(proxy_port):
        return False
    proxy["url"] = _proxy_url(proxy_port)
    write_whole(path, yaml.safe_dump(config, sort_keys=False), private=True)
    return True


def _proxy(config: Any) -> dict[str, Any]:
    proxy: dict[str, Any] = config["services"][_LITE]["configuration"]["networkProxy"]["proxy"]
    return proxy


def write_bundle(folder: Path, identity: Identity, proxy_port: int, root: str | None = None) -> None:
    """Write what a real device needs to join, and a README of the commands for each nucleus.

    The folder and all in it are readable by their owner only.

    Args:
        folder: Where; made if missing.
        identity: From `join`.
        proxy_port: The twin's CONNECT proxy.
        root: The nucleus' root folder on the device; the usual one of each nucleus by default.

    Raises:
        TwinError: If a file cannot be written.
    """
    lite_root, classic_root = root or LITE_ROOT, root or CLASSIC_ROOT
    try:
        private_folder(folder)
        write_credentials(folder / CREDENTIALS, identity)
        for name, text in (
            (CONFIG_FILE, lite(identity, proxy_port, root=lite_root)),
            (CLASSIC_CONFIG_FILE, classic(identity, proxy_port, root=classic_root)),
            ("README.md", _readme(identity, proxy_port, lite_root, classic_root)),
        ):
            write_whole(folder / name, text, private=True)
    except OSError as exc:
        raise TwinError(f"--out must be a folder that can be written, got {folder}: {exc}") from exc


def _readme(identity: Identity, proxy_port: int, lite_root: str, classic_root: str) -> str:
    thing, groups = identity.thing, ", ".join(identity.groups) or "none"
    return f"""# Core device {thing}

Thing groups: {groups}. The twin is reached by one port, its CONNECT proxy, at 127.0.0.1:{proxy_port} of the device.
On another machine, forward that port from the machine with the twin and leave it running:

    ssh -N -R {proxy_port}:127.0.0.1:{proxy_port} USER@DEVICE

## AWS IoT Greengrass nucleus lite, installed from its package

    sudo install -d -m 755 -o ggcore -g ggcore {lite_root}/{CREDENTIALS}
    sudo install -m 600 -o ggcore -g ggcore {CREDENTIALS}/{KEY} {lite_root}/{CREDENTIALS}/
    sudo install -m 644 -o ggcore -g ggcore {CREDENTIALS}/{CERTIFICATE} {lite_root}/{CREDENTIALS}/
    sudo install -m 644 -o ggcore -g ggcore {CREDENTIALS}/{ROOT_CA} {lite_root}/{CREDENTIALS}/
    sudo install -D -m 644 {CONFIG_FILE} /etc/greengrass/config.yaml

Components run as a user of their own, who can read the trusted root, for their uploads, and not the private key. The
package's file in `config.d`, which is read after `config.yaml`, would run them as `ggcore`, the nucleus' user:

    id {COMPONENT_USER} || sudo useradd --system --user-group --no-create-home {COMPONENT_USER}
    sudo sed -i 's/ggcore:ggcore/{COMPONENT_USER}:{COMPONENT_USER}/' /etc/greengrass/config.d/*.yaml
    [ ! -d {lite_root}/work ] || sudo chown -R {COMPONENT_USER}:{COMPONENT_USER} {lite_root}/work
    sudo systemctl restart greengrass-lite.target

## AWS IoT Greengrass nucleus (classic), its installer unpacked in ./GreengrassInstaller

    sudo mkdir -p {classic_root} && sudo cp -r {CREDENTIALS} {classic_root}/
    sudo -E java -Droot={classic_root} -Dlog.store=FILE -jar ./GreengrassInstaller/lib/Greengrass.jar \\
      --init-config {CLASSIC_CONFIG_FILE} --component-default-user ggc_user:ggc_group --setup-system-service true
    sudo systemctl status greengrass.service

## Afterwards

`python -m twin leave {thing}` removes the device from the twin. `private.pem.key` is the only copy of its key.
"""
