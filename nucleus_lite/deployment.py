"""What nucleus lite takes of a deployment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nucleus_lite import OBSERVED, RELEASE, Fact
from nucleus_lite.configuration import value_bytes

_DEPLOYMENTS = "core_device/test_deployment.py"
_GROUPS = "core_device/test_groups.py"

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
STATUS_BYTES = Fact(
    "a fleet status of more than {value} bytes is dropped in silence: long names of components and a second group for "
    "each use it up before the 20th component",
    source="gg-fleet-statusd/src/fleet_status_service.c (PAYLOAD_BUFFER_LEN)",
    rule="DeviceStatus",
    twin="`fleet status must be at most 5000 bytes`",
    shown_by="names as long as Greengrass allows",
    value=5_000,
)
GROUPS_ONLY = Fact(
    "a deployment to a group takes away what a deployment to the thing has brought, and both SUCCEEDED",
    source=OBSERVED,
    rule="GroupTarget",
    twin="the same",
    shown_by=f"{_GROUPS}::test_a_group_s_deployment_takes_away_what_the_thing_s_has_brought_on_lite_only",
)
ONE_VERSION = Fact(
    "two groups of a device that name different versions of a component: FAILED, the reason is in the journal only",
    source=OBSERVED,
    rule="OneVersion",
    twin="FAILED, with the reason",
    shown_by=f"{_GROUPS}::test_two_groups_that_want_different_versions_fail",
)
PRE_RELEASE = Fact(
    "a component of a pre-release version (`1.0.0-rc.1`) is never removed",
    source=OBSERVED,
    rule="PreRelease",
    twin="the same",
    shown_by=f"{_GROUPS}::test_lite_keeps_a_pre_release_that_nobody_wants_any_more",
)
WORK_FOLDERS = Fact(
    "the work folder of a removed component stays: one that comes under its name finds what is in it",
    source=OBSERVED,
    twin="the same",
    shown_by=f"{_DEPLOYMENTS}::test_a_removed_component_is_stopped_and_deleted_but_for_its_work_folder_on_lite",
)
UPDATE_POLICY = Fact(
    "`componentUpdatePolicy` is not honoured: nobody is asked, a component gets SIGTERM",
    source=OBSERVED,
    rule="UpdatePolicy",
    twin="the same, in both dialects",
    shown_by=f"{_GROUPS}::test_nobody_is_asked_before_an_update",
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
        "configurationArn": configuration_arn(target),
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
    return len(topic) + _PACKET_BYTES + value_bytes(message)


def configuration_arn(target: str) -> str:
    """The ARN of a target's revision, with what only the cloud knows at its full length.

    Args:
        target: ARN of the thing or the group, its name, or about as much text.
    """
    return f"{_ARN}{target[-60:]}:10"


def status_bytes(components: Mapping[str, tuple[str, Iterable[str]]], thing: str = _THING) -> int:
    """About how long the fleet status is that a device sends at the end of a deployment, at its longest.

    Args:
        components: Component name to its version and the ARNs of the revisions that it is there for.
        thing: The device; a name of full length by default.
    """
    arns = {name: list(found) for name, (_, found) in components.items()}
    deployment = {
        "status": "SUCCEEDED",
        "fleetConfigurationArnForStatus": max((arn for found in arns.values() for arn in found), key=len, default=""),
        "deploymentId": _ID,
        "statusDetails": {"detailedStatus": "SUCCESSFUL"},
        "unchangedRootComponents": [],
    }
    entries = [
        {"componentName": name, "version": version, "fleetConfigArns": arns[name], "isRoot": True, "status": "FINISHED"}
        for name, (version, _) in components.items()
    ]
    message = {
        "ggcVersion": RELEASE,
        "platform": "linux",
        "architecture": "aarch64",
        "runtime": "aws_nucleus_lite",
        "thing": thing,
        "sequenceNumber": 10**5,
        "timestamp": 10**12,
        "messageType": "COMPLETE",
        "trigger": "THING_GROUP_DEPLOYMENT",
        "overallDeviceStatus": "UNHEALTHY",
        "components": entries,
        "deploymentInformation": deployment,
    }
    return value_bytes(message)


def keys(document: Any) -> int:
    """Count the keys of a document, those of its objects included.

    Args:
        document: Parsed JSON.
    """
    if isinstance(document, Mapping):
        return len(document) + sum(keys(child) for child in document.values())
    return sum(keys(child) for child in document) if isinstance(document, list) else 0
