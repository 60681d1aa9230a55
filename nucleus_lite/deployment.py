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
    "more than {value} components on a device, over all its groups, TokenExchangeService and those just removed "
    "counted: its fleet status is dropped in silence",
    source=OBSERVED,
    rule="DeploymentComponents",
    twin="`at most 19 components on a device`",
    shown_by="20 components",
    value=19,
)
NUCLEI = ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")
"""What is no component of its own on the device."""


def keys(document: Any) -> int:
    """Count the keys of a document, those of its objects included.

    Args:
        document: Parsed JSON.
    """
    if isinstance(document, Mapping):
        return len(document) + sum(keys(child) for child in document.values())
    return sum(keys(child) for child in document) if isinstance(document, list) else 0
