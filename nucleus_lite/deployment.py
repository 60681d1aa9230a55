"""What nucleus lite takes of a deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nucleus_lite.fact import OBSERVED, Fact

KEYS = Fact(
    "more than {value} keys in a deployment document",
    source=OBSERVED,
    twin="`at most 255 keys in all`",
    shown_by="more than 255 keys in a document",
    value=255,
)
PACKET_BYTES = Fact(
    "an MQTT packet of more than {value} bytes drops the link, a deployment document at every reconnect",
    source=OBSERVED,
    twin="the device's log says so; cancel the deployment",
    shown_by="core_device/test_connection.py::test_a_packet_above_nucleus_lites_limit_drops_the_link",
    value=5_000,
)
COMPONENTS = Fact(
    "more than {value} components in one deployment",
    source="ggl-constants (GGL_MAX_GENERIC_COMPONENTS)",
    rule="DeploymentComponents",
    twin="not refused",
    value=50,
)


def keys(document: Any) -> int:
    """Count the keys of a document, those of its objects included.

    Args:
        document: Parsed JSON.
    """
    if isinstance(document, Mapping):
        return len(document) + sum(keys(child) for child in document.values())
    return sum(keys(child) for child in document) if isinstance(document, list) else 0
