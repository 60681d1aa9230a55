"""Certificates that the provisioning of an edge server had half made when the cloud was killed.

The snapshot may have a certificate without its attachments, which no destroy would find, while the device's folder has
its key, or not. They are dropped at the start, and the provisioning makes new ones.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.edge_server.provisioning import JOINED
from twin.cloud.ministack.patches import require
from twin.cloud.settings import Settings
from twin.devices.identity import CERTIFICATE, KEY, ROOT_CA
from twin.devices.nucleus_files import CONFIG_FILE
from twin.edge_processes import instances_folder

logger = logging.getLogger("twin.edge_server")

require("services.iot._certificates", why="half made ones are dropped", signature="AccountRegionScopedDict")
require("services.iot._policies_attached_to", why="half made ones are known", signature="(target)")

_EARLIER_S = 1.0
"""The folder's files and the cloud's record are not written at one moment."""


def drop_half_made(settings: Settings) -> None:
    """Compare each instance's folder with the certificates of the snapshot; before anything is served."""
    try:
        saved = (settings.home / "state" / "iot.json").stat().st_mtime
    except OSError:
        saved = 0.0
    with request_scope(settings.account, settings.region):
        for root in sorted(instances_folder(settings.home).glob("*")):
            if (root / ROOT_CA).exists() and _is_newer(root, saved) and not _is_whole(root):
                _drop(root)


def _is_newer(root: Path, saved: float) -> bool:
    """Whether the snapshot is older than the device's certificate; one that somebody detached since stays detached."""
    try:
        return (root / JOINED).stat().st_mtime >= saved
    except OSError:
        return True


def _is_whole(root: Path) -> bool:
    """Whether the device's certificate is there and attached to a policy and a thing."""
    record = iot._certificates.get(_identifier(root))
    return record is not None and bool(record.get("attachedThings")) and bool(_policies(record))


def _drop(root: Path) -> None:
    for record in list(_begun_by(root)):
        logger.warning("certificate %s… was half made when the cloud was killed: dropped", record["certificateId"][:12])
        del iot._certificates[record["certificateId"]]
    # Without them the provisioning begins anew.
    for name in (CONFIG_FILE, JOINED, CERTIFICATE, KEY):
        (root / name).unlink(missing_ok=True)


def _begun_by(root: Path) -> Iterator[dict[str, Any]]:
    """The device's certificate, or those with nothing attached that were made since its provisioning began."""
    # It is written right before the certificate is asked for.
    began, identifier = (root / ROOT_CA).stat().st_mtime, _identifier(root)
    for record in iot._certificates.values():
        if record.get("attachedThings") or _policies(record):
            continue
        made_since = not identifier and float(record.get("creationDate", 0)) >= began - _EARLIER_S
        if record["certificateId"] == identifier or made_since:
            yield record


def _identifier(root: Path) -> str:
    try:
        return str(json.loads((root / JOINED).read_text("utf-8"))["certificateId"])
    except (OSError, ValueError):
        return ""


def _policies(record: dict[str, Any]) -> list[Any]:
    return list(iot._policies_attached_to(record["certificateArn"]))
