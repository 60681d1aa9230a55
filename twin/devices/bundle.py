"""The folder that `join` writes: what a real device needs to join, and a README of three commands for each nucleus."""

from __future__ import annotations

from pathlib import Path

from twin.devices import nucleus_configuration as nucleus
from twin.devices.identity import Identity, write_credentials
from twin.errors import TwinError
from twin.files import write_whole

LITE_CONFIG, CLASSIC_CONFIG = nucleus.CONFIG_FILE, "config-classic.yaml"


def write(folder: Path, identity: Identity, proxy_port: int, root: str | None = None) -> None:
    """Write the bundle; key and certificate are readable by their owner only.

    Args:
        folder: Where; made if missing.
        identity: From `join`.
        proxy_port: The twin's CONNECT proxy.
        root: The nucleus' root folder on the device; the usual one of each nucleus by default.

    Raises:
        TwinError: If a file cannot be written.
    """
    lite_root, classic_root = root or nucleus.LITE_ROOT, root or nucleus.CLASSIC_ROOT
    try:
        write_credentials(folder / nucleus.CREDENTIALS, identity)
        for name, text in (
            (LITE_CONFIG, nucleus.lite(identity, proxy_port, root=lite_root)),
            (CLASSIC_CONFIG, nucleus.classic(identity, proxy_port, root=classic_root)),
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

    sudo cp -r {nucleus.CREDENTIALS} {lite_root}/ && sudo chown -R ggcore:ggcore {lite_root}/{nucleus.CREDENTIALS}
    sudo install -D -m 644 {LITE_CONFIG} /etc/greengrass/config.yaml
    sudo systemctl restart greengrass-lite.target

## AWS IoT Greengrass nucleus (classic), its installer unpacked in ./GreengrassInstaller

    sudo mkdir -p {classic_root} && sudo cp -r {nucleus.CREDENTIALS} {classic_root}/
    sudo -E java -Droot={classic_root} -Dlog.store=FILE -jar ./GreengrassInstaller/lib/Greengrass.jar \\
      --init-config {CLASSIC_CONFIG} --component-default-user ggc_user:ggc_group --setup-system-service true
    sudo systemctl status greengrass.service

## Afterwards

`python -m twin leave {thing}` removes the device from the twin. `private.pem.key` is the only copy of its key.
"""
