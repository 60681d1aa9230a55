"""The settings that the user data of an edge server exports before its script begins."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

_EXPORT = re.compile(r"^export EDGEWRIGHT_([A-Z_0-9]+)='?([^'\n]*)'?\s*$", re.MULTILINE)


class UserDataError(ValueError):
    """User data that is an edge server's, but not usable."""


@dataclass(frozen=True)
class EdgeServerSettings:
    """What makes an instance a core device: names of IoT resources in its account."""

    region: str
    thing_name: str
    thing_group: str
    iot_policy: str
    role_alias: str
    stage: str
    signal_url: str = ""


def parse(user_data: str) -> EdgeServerSettings | None:
    """Read the settings; the script after them is not run.

    Args:
        user_data: As in RunInstances: base64, or plain text.

    Returns:
        The settings, or None if the user data exports nothing with the prefix `EDGEWRIGHT_`.

    Raises:
        UserDataError: If some settings are there and others missing or empty.
    """
    exports = dict(_EXPORT.findall(_decoded(user_data)))
    if not exports:
        return None
    names = ("REGION", "THING_NAME", "THING_GROUP", "IOT_POLICY", "ROLE_ALIAS", "STAGE")
    missing = [f"EDGEWRIGHT_{name}" for name in names if not exports.get(name)]
    if missing:
        raise UserDataError(f"user data must export {', '.join(missing)}, got nothing for it")
    return EdgeServerSettings(
        **{name.lower(): exports[name] for name in names}, signal_url=exports.get("SIGNAL_URL", "")
    )


def _decoded(user_data: str) -> str:
    try:
        return base64.b64decode(user_data, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return user_data
