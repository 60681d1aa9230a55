"""The device's `config.yaml`, in the format of nucleus lite.

Checked by hand: a model library would double the memory of a device, of which two dozen run on a laptop.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from .dialect import DIALECTS, LITE, Dialect
from .errors import ConfigurationError

_NUCLEUS = "services.aws.greengrass.NucleusLite"
_THING_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_ROLE_ALIAS = re.compile(r"[\w=,@-]{1,128}", re.ASCII)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PosixUser:
    """A user of this machine."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class System:
    """`system`: who the device is and where its files are."""

    private_key_path: Path
    certificate_path: Path
    root_ca_path: Path
    root_path: Path
    thing_name: str


@dataclass(frozen=True)
class Nucleus:
    """`services.aws.greengrass.NucleusLite.configuration`: where the cloud is.

    Args:
        region: AWS region.
        credential_endpoint: Host of the token exchange.
        data_endpoint: Host of IoT Core and of the Greengrass data plane.
        role_alias: What the device exchanges its certificate for.
        data_plane_port: Port of the Greengrass data plane.
        mqtt_port: Port of IoT Core.
        proxy_url: HTTP proxy that every connection goes through; None to connect directly.
        dialect: The nucleus whose limits the device has; not a field of the real one's file.
        component_user: Whom components run as; None for the device's own user, as always where that is not root.
        architecture: Of a simulated device, as Greengrass names it; this machine's by default.
    """

    region: str
    credential_endpoint: str
    data_endpoint: str
    role_alias: str
    data_plane_port: int = 8443
    mqtt_port: int = 8883
    proxy_url: str | None = None
    dialect: Dialect = LITE
    component_user: PosixUser | None = None
    architecture: str = ""


@dataclass(frozen=True)
class Configuration:
    """What the device was told at its installation."""

    system: System
    nucleus: Nucleus


def load_configuration(path: Path) -> Configuration:
    """Read and check the whole file.

    Raises:
        ConfigurationError: The file is missing, is not YAML, or has mistakes; all of them are listed, each with
            file, field, rule and value.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc}") from exc
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"{path} is not YAML: {exc}") from exc
    reader = _Reader(content)
    configuration = _read(reader)
    if reader.mistakes:
        raise ConfigurationError("\n".join(f"{path}: {mistake}" for mistake in reader.mistakes))
    return configuration


def _read(reader: _Reader) -> Configuration:
    nucleus = f"{_NUCLEUS}.configuration"
    system = System(
        private_key_path=reader.file("system.privateKeyPath"),
        certificate_path=reader.file("system.certificateFilePath"),
        root_ca_path=reader.file("system.rootCaPath"),
        root_path=reader.folder("system.rootPath"),
        thing_name=reader.text(
            "system.thingName", _THING_NAME, "must be at most 124 of letters, digits, ':', '_', '-'"
        ),
    )
    host = "must be a host name without scheme and port"
    return Configuration(
        system,
        Nucleus(
            region=reader.text(f"{nucleus}.awsRegion", _REGION, "must be an AWS region such as us-east-1"),
            credential_endpoint=reader.text(f"{nucleus}.iotCredEndpoint", _HOST_NAME, host),
            data_endpoint=reader.text(f"{nucleus}.iotDataEndpoint", _HOST_NAME, host),
            role_alias=reader.text(f"{nucleus}.iotRoleAlias", _ROLE_ALIAS, "must be the name of a role alias"),
            data_plane_port=reader.port(f"{nucleus}.greengrassDataPlanePort", 8443),
            mqtt_port=reader.port(f"{nucleus}.mqttPort", 8883),
            proxy_url=reader.proxy(f"{nucleus}.networkProxy.proxy.url"),
            dialect=reader.dialect(f"{nucleus}.dialect"),
            component_user=reader.user(f"{nucleus}.runWithDefault.posixUser"),
        ),
    )


@dataclass
class _Reader:
    """Takes fields out of the file and collects what is wrong with them."""

    content: Any
    mistakes: list[str] = field(default_factory=list)

    def text(self, name: str, pattern: re.Pattern[str], rule: str) -> str:
        value = self._find(name)
        text = "" if value is None or isinstance(value, dict | list) else str(value)
        if not pattern.fullmatch(text):
            self._note(name, rule, value)
        return text

    def file(self, name: str) -> Path:
        value = self._find(name)
        try:
            path = Path(value)
            path.open("rb").close()
        except (OSError, TypeError, ValueError):
            self._note(name, "must be a readable file", value)
            return Path()
        return path

    def folder(self, name: str) -> Path:
        value = self._find(name)
        if not isinstance(value, str) or not Path(value).is_absolute():
            self._note(name, "must be an absolute path", value)
            return Path()
        return Path(value)

    def port(self, name: str, default: int) -> int:
        value = self._find(name)
        if value is None:
            return default
        if not str(value).isdecimal() or not 1 <= int(str(value)) <= 65535:
            self._note(name, "must be a port from 1 to 65535", value)
            return default
        return int(str(value))

    def proxy(self, name: str) -> str | None:
        value = self._find(name)
        if value is None:
            return None
        try:
            parts = urlsplit(str(value))
            valid = parts.scheme == "http" and parts.hostname and not parts.username and parts.port != 0
        except ValueError:
            valid = False
        if not valid:
            self._note(name, "must be http://<host>:<port> without credentials", value)
        return str(value)

    def dialect(self, name: str) -> Dialect:
        value = self._find(name)
        found = LITE if value is None else DIALECTS.get(str(value))
        if found is None:
            self._note(name, f"must be one of {', '.join(DIALECTS)}", value)
        return found or LITE

    def user(self, name: str) -> PosixUser | None:
        value = self._find(name)
        if value is None:
            return None
        user, _, group = str(value).partition(":")
        if not _USER.fullmatch(user) or (group and not _USER.fullmatch(group)):
            self._note(name, "must be USER or USER:GROUP", value)
            return None
        if os.geteuid() != 0:
            log.warning("components run as the user of this device: only root can run them as %s", value)
            return None
        try:
            found = pwd.getpwnam(user)
            return PosixUser(user, found.pw_uid, grp.getgrnam(group).gr_gid if group else found.pw_gid, found.pw_dir)
        except KeyError:
            self._note(name, "must be a user and a group of this machine", value)
            return None

    def _find(self, name: str) -> Any:
        # The service's name has dots of its own.
        node, keys = self.content, name.split(".")
        if name.startswith(_NUCLEUS):
            keys = ["services", "aws.greengrass.NucleusLite", *name.removeprefix(_NUCLEUS + ".").split(".")]
        for key in keys:
            node = node.get(key) if isinstance(node, dict) else None
        return node

    def _note(self, name: str, rule: str, value: Any) -> None:
        self.mistakes.append(f"{name} {rule}, got {'nothing' if value is None else repr(value)}")
