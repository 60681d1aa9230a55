"""The configuration files by which a nucleus finds the twin: nucleus lite's `config.yaml` and the classic installer's.

AWS's host names are reached through the twin's CONNECT proxy, so neither hosts file nor trust store changes.
"""

from __future__ import annotations

from typing import Any

import yaml

from twin.devices.membership import Identity

CERTIFICATE, KEY, ROOT_CA = "device.pem.crt", "private.pem.key", "root_ca.pem"
CREDENTIALS = "credentials"
"""Folder of the three files, below the nucleus' root folder and in the bundle alike."""

LITE_ROOT, CLASSIC_ROOT = "/var/lib/greengrass", "/greengrass/v2"


def lite(identity: Identity, proxy_port: int, *, root: str = LITE_ROOT, dialect: str | None = None) -> str:
    """`/etc/greengrass/config.yaml` of nucleus lite.

    Args:
        identity: From `join`.
        proxy_port: The twin's CONNECT proxy, as the device reaches it on its own 127.0.0.1.
        root: The nucleus' root folder; the credentials lie in a folder of it.
        dialect: Only for the twin's own core device: whose limits it keeps.
    """
    configuration: dict[str, Any] = {
        "awsRegion": identity.region,
        "iotCredEndpoint": identity.credential_endpoint,
        "iotDataEndpoint": identity.data_endpoint,
        "iotRoleAlias": identity.role_alias,
        "runWithDefault": {"posixUser": "gg_component:gg_component"},
        "greengrassDataPlanePort": "8443",
        "networkProxy": {"proxy": {"url": f"http://127.0.0.1:{proxy_port}"}},
    }
    if dialect is not None:
        configuration = {key: value for key, value in configuration.items() if key != "runWithDefault"}
        configuration["dialect"] = dialect
    document = {
        "system": {**_system(root), "rootPath": root, "thingName": identity.thing},
        "services": {
            "aws.greengrass.NucleusLite": {"componentType": "NUCLEUS", "configuration": configuration},
        },
    }
    return yaml.safe_dump(document, sort_keys=False)


def classic(identity: Identity, proxy_port: int, *, root: str = CLASSIC_ROOT) -> str:
    """The file for `--init-config` of the classic nucleus' installer; arguments as of `lite`."""
    configuration = {
        "awsRegion": identity.region,
        "iotRoleAlias": identity.role_alias,
        "iotDataEndpoint": identity.data_endpoint,
        "iotCredEndpoint": identity.credential_endpoint,
        "greengrassDataPlanePort": 8443,
        "mqtt": {"port": 8883},
        "networkProxy": {"proxy": {"url": f"http://127.0.0.1:{proxy_port}"}},
    }
    document = {
        "system": {**_system(root), "rootpath": root, "thingName": identity.thing},
        "services": {"aws.greengrass.Nucleus": {"componentType": "NUCLEUS", "configuration": configuration}},
    }
    return yaml.safe_dump(document, sort_keys=False)


def _system(root: str) -> dict[str, str]:
    folder = f"{root}/{CREDENTIALS}"
    return {
        "privateKeyPath": f"{folder}/{KEY}",
        "certificateFilePath": f"{folder}/{CERTIFICATE}",
        "rootCaPath": f"{folder}/{ROOT_CA}",
    }
