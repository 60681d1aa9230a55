"""What nucleus lite takes of a deployment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nucleus_lite.fact import OBSERVED, Fact

_DEPLOYMENTS = "core_device/test_deployment.py"

KEYS = Fact(
    "more than {value} keys in a deployment document",
    source=OBSERVED,
    rule="DeploymentKeys",
    twin="`at most 255 keys in all`",
    shown_by="more than 255 keys in a document",
    value=255,
)
PACKET_BYTES = Fact(
    "an MQTT packet of more than {value} bytes drops the link, a deployment document at every reconnect",
    source=OBSERVED,
    rule="DeploymentPacket",
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
CONFIGURED = Fact(
    "a component whose entry has a `configurationUpdate`, changed or not, is stopped and started; it hears of a merge "
    "before, of a reset never",
    source="ggdeploymentd/src/deployment_handler.c (component-config-updated)",
    twin="the same; classic tells it, and it runs on",
    shown_by=f"{_DEPLOYMENTS}::test_a_configuration_starts_a_component_of_the_same_version_anew_on_lite_only",
)
ROLLBACK = Fact(
    "`failureHandlingPolicy` is never read: a failed deployment leaves the broken version "
    "(Edgewright's own deploy brings the former one back, see deploy.md)",
    source=OBSERVED,
    twin="`FAILED_ROLLBACK_NOT_REQUESTED`, with the cause, which the real one does not tell",
    shown_by=f"{_DEPLOYMENTS}::test_lite_leaves_a_broken_version_and_is_healed_by_the_one_before",
)
NUCLEI = ("aws.greengrass.Nucleus", "aws.greengrass.NucleusLite")
"""What is no component of its own on the device."""


#: The longest names that a device's packet can have, where a template does not know them.
_THING = "t" * 124
_ID = "0" * 36
_ARN = "arn:aws:greengrass:ap-southeast-1:000000000000:configuration:thinggroup/"
_PACKET_BYTES = 8  # fixed header, topic length, packet id, no properties


def job_document(name: str, target: str, components: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment's document as it was seen on the wire, with what only the cloud knows at its full length.

    Args:
        name: The deployment's name; nothing if it has none.
        target: ARN of the thing or the group, or about as much text.
        components: Component name to its entry: `version`, `configurationUpdate`.
    """
    return {
        "deploymentId": _ID,
        **({"deploymentName": name} if name else {}),
        "configurationArn": f"{_ARN}{target[-60:]}:10",
        "creationTimestamp": 10**12,
        "components": dict(components),
        "failureHandlingPolicy": "DO_NOTHING",
        "componentUpdatePolicy": {"timeout": 60, "action": "SKIP_NOTIFY_COMPONENTS"},
        "configurationValidationPolicy": {"timeout": 60},
    }


def packet_bytes(document: Mapping[str, Any]) -> int:
    """About how long the MQTT packet is that brings a deployment to a device, at its longest.

    Args:
        document: From `job_document`.
    """
    now = 10**9
    execution = {"jobId": _ID, "status": "IN_PROGRESS", "queuedAt": now, "lastUpdatedAt": now, "startedAt": now}
    execution |= {"versionNumber": 1, "executionNumber": 1, "jobDocument": document}
    message = {"clientToken": _ID, "timestamp": now, "execution": execution}
    topic = f"$aws/things/{_THING}/jobs/$next/namespace-aws-gg-deployment/get/accepted"
    return len(topic) + _PACKET_BYTES + len(json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode())


def keys(document: Any) -> int:
    """Count the keys of a document, those of its objects included.

    Args:
        document: Parsed JSON.
    """
    if isinstance(document, Mapping):
        return len(document) + sum(keys(child) for child in document.values())
    return sum(keys(child) for child in document) if isinstance(document, list) else 0
