"""The configuration files by which a nucleus finds the twin: nucleus lite's `config.yaml` and the classic installer's.

AWS's host names are reached through the twin's CONNECT proxy, so neither hosts file nor trust store changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from twin.devices.identity import CERTIFICATE, KEY, ROOT_CA, CloudNames
from twin.files import write_whole

CONFIG_FILE = "config.yaml"
CREDENTIALS = "credentials"
"""Folder of the three files, below the nucleus' root folder and in the bundle alike."""

LITE_ROOT, CLASSIC_ROOT = "/var/lib/greengrass", "/greengrass/v2"
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
        "networkProxy": {"proxy": {"url": _proxy_url(proxy_port)}},
        **({"runWithDefault": {"posixUser": "gg_component:gg_component"}} if dialect is None else {"dialect": dialect}),
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
        "networkProxy": {"proxy": {"url": _proxy_url(proxy_port)}},
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


def points_at(path: Path, proxy_port: int) -> bool:
    """Whether a `config.yaml` of nucleus lite is there and reaches the twin by this port."""
    try:
        return bool(_proxy(yaml.safe_load(path.read_text("utf-8")))["url"] == _proxy_url(proxy_port))
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
    write_whole(path, yaml.safe_dump(config, sort_keys=False))
    return True


def _proxy(config: Any) -> dict[str, Any]:
    proxy: dict[str, Any] = config["services"][_LITE]["configuration"]["networkProxy"]["proxy"]
    return proxy
