"""Device protocol, fleet status: what core devices report feeds the Greengrass API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.twin_greengrass.device import Device, connected
from tests.twin_greengrass.started_cloud import Cloud


def health(device: Device, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "ggcVersion": "2.6.0",
        "platform": "linux",
        "architecture": "amd64",
        "runtime": "aws_nucleus_lite",
        "thing": device.thing,
        "sequenceNumber": 1,
        "timestamp": int(time.time() * 1000),
        "messageType": kind,
        "trigger": "NUCLEUS_LAUNCH",
        "overallDeviceStatus": "HEALTHY",
        "components": [],
        **more,
    }


def entry(name: str, status: str = "RUNNING", *, root: bool = True) -> dict[str, Any]:
    return {
        "componentName": name,
        "version": "1.0.0",
        "fleetConfigArns": ["arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/g:1"],
        "isRoot": root,
        "status": status,
    }


def installed(cloud: Cloud, device: Device, **more: Any) -> dict[str, str]:
    answer = cloud.client("greengrassv2").list_installed_components(coreDeviceThingName=device.thing, **more)
    return {each["componentName"]: each["lifecycleState"] for each in answer["installedComponents"]}


def report(session: Any, device: Device, message: Any) -> None:
    session.publish(f"$aws/things/{device.thing}/greengrassv2/health/json", message, qos=1)


def test_reports_make_and_change_a_core_device(cloud: Cloud, device: Device, group_arn: str) -> None:
    greengrass = cloud.client("greengrassv2")
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.get_core_device(coreDeviceThingName=device.thing)
    with connected(device, jobs=False) as session:
        report(session, device, health(device, "COMPLETE", components=[entry("a"), entry("b"), entry("c", root=False)]))
        assert installed(cloud, device) == {"a": "RUNNING", "b": "RUNNING"}
        assert set(installed(cloud, device, topologyFilter="ALL")) == {"a", "b", "c"}

        partial = [entry("a", "BROKEN"), entry("b", "UNINSTALLED")]
        report(session, device, health(device, "PARTIAL", components=partial, overallDeviceStatus="UNHEALTHY"))
        assert installed(cloud, device) == {"a": "BROKEN"}

        core = greengrass.get_core_device(coreDeviceThingName=device.thing)
        assert (core["status"], core["coreVersion"], core["architecture"]) == ("UNHEALTHY", "2.6.0", "amd64")
        listed = greengrass.list_core_devices(thingGroupArn=group_arn, status="UNHEALTHY")["coreDevices"]
        assert [each["coreDeviceThingName"] for each in listed] == [device.thing]
        assert greengrass.list_core_devices(thingGroupArn=group_arn, status="HEALTHY")["coreDevices"] == []

        report(session, device, health(device, "COMPLETE", components=[entry("d")]))
        assert installed(cloud, device) == {"d": "RUNNING"}

    greengrass.delete_core_device(coreDeviceThingName=device.thing)
    with pytest.raises(greengrass.exceptions.ResourceNotFoundException):
        greengrass.delete_core_device(coreDeviceThingName=device.thing)


def test_a_deployments_outcome_shows_on_the_device(cloud: Cloud, device: Device, group_arn: str) -> None:
    greengrass = cloud.client("greengrassv2")
    with connected(device) as session:
        made = greengrass.create_deployment(targetArn=group_arn, deploymentName="d")
        report(session, device, health(device, "COMPLETE"))
        session.job(made["iotJobId"], "update", {"status": "IN_PROGRESS"})
        session.job(made["iotJobId"], "update", {"status": "FAILED"})
        details = {"detailedStatus": "FAILED_NO_STATE_CHANGE", "errorStack": ["E1"], "errorTypes": ["T"]}
        information = {"status": "FAILED", "deploymentId": made["deploymentId"], "statusDetails": details}
        report(session, device, health(device, "PARTIAL", deploymentInformation=information))

        (effective,) = greengrass.list_effective_deployments(coreDeviceThingName=device.thing)["effectiveDeployments"]

    assert effective["coreDeviceExecutionStatus"] == "FAILED"
    assert effective["reason"] == "FAILED_NO_STATE_CHANGE"
    assert effective["statusDetails"] == {"errorStack": ["E1"], "errorTypes": ["T"]}
    assert effective["deploymentId"] == made["deploymentId"]


@pytest.mark.parametrize(
    "message",
    [b"{", b"[]", b"5", b'{"components": 5}', b'{"components": [{}]}', b'{"timestamp": Infinity}', b"[" * 90_000],
)
def test_a_malformed_report_is_dropped(cloud: Cloud, device: Device, message: bytes) -> None:
    with connected(device, jobs=False) as session:
        report(session, device, message)

        report(session, device, health(device, "COMPLETE", components=[entry("a")]))

        assert installed(cloud, device) == {"a": "RUNNING"}
