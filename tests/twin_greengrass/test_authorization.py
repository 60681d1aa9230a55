"""The same device against a twin with AUTH=true: its IoT policies and the role's trust decide."""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.synthesis import resources
from tests.twin_greengrass.device import Device, connected, make_device
from tests.twin_greengrass.started_cloud import ACCOUNT, REGION, Cloud, started_cloud
from tests.twin_greengrass.test_credentials_and_s3 import make_alias, s3_of

IOT, GREENGRASS = (f"arn:aws:{service}:{REGION}:{ACCOUNT}:" for service in ("iot", "greengrass"))
THING = "${iot:Connection.Thing.ThingName}"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with started_cloud(tmp_path_factory.mktemp("guarded"), auth=True) as started:
        yield started


def statement(action: str | list[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


MQTT = [
    statement("iot:Connect", f"{IOT}client/{THING}"),
    statement(["iot:Publish", "iot:Receive"], f"{IOT}topic/$aws/things/{THING}/*"),
    statement("iot:Subscribe", f"{IOT}topicfilter/$aws/things/{THING}/*"),
]


def make_policy(cloud: Cloud, *statements: dict[str, Any]) -> str:
    name = f"policy-{uuid.uuid4().hex[:8]}"
    document = {"Version": "2012-10-17", "Statement": [*MQTT, *statements]}
    cloud.client("iot").create_policy(policyName=name, policyDocument=json.dumps(document))
    return name


def guarded(
    cloud: Cloud, folder: Path, *statements: dict[str, Any], group: str = "", exclusively: bool = False
) -> Device:
    policy = make_policy(cloud, *statements)
    return make_device(cloud, folder, policy=policy, group=group, exclusively=exclusively)


def connects(device: Device, client_id: str) -> bool:
    with contextlib.suppress(AssertionError), connected(device, client_id=client_id, jobs=False):
        return True
    return False


@pytest.mark.parametrize("exclusively", [True, False])
def test_a_thing_is_known_on_each_of_its_connections_only_where_its_certificate_is_its_alone(
    cloud: Cloud, tmp_path: Path, exclusively: bool
) -> None:
    more = statement("iot:Connect", f"{IOT}client/{THING}#*")
    device = guarded(cloud, tmp_path, more, exclusively=exclusively)
    other = guarded(cloud, tmp_path / "other")
    iot = cloud.client("iot")

    assert connects(device, device.thing)
    assert connects(device, f"{device.thing}#2") is exclusively
    assert not connects(device, other.thing)
    if exclusively:
        with pytest.raises(iot.exceptions.InvalidRequestException, match="exclusive attachment is the only one"):
            iot.attach_thing_principal(thingName=other.thing, principal=device.certificate_arn)
    to_other = {"thingName": other.thing, "principal": device.certificate_arn}
    with pytest.raises(iot.exceptions.InvalidRequestException, match="exclusive attachment is the only one"):
        iot.attach_thing_principal(**to_other, thingPrincipalType="EXCLUSIVE_THING")
    assert iot.list_principal_things(principal=device.certificate_arn)["things"] == [device.thing]


def test_a_claim_connects_under_a_random_name_alone(cloud: Cloud, tmp_path: Path) -> None:
    (found,) = resources("twin", "Provisioning", "AWS::IoT::Policy")
    device = make_device(cloud, tmp_path)
    (attached,) = cloud.client("iot").list_attached_policies(target=device.certificate_arn)["policies"]
    cloud.client("iot").detach_policy(policyName=attached["policyName"], target=device.certificate_arn)
    document = json.dumps(found["Properties"]["PolicyDocument"])
    document = re.sub(
        r'\{"Fn::Join": \["", \["arn:", \{"Ref": "AWS::Partition"\}, "([^"]*)"\]\]\}', r'"arn:aws\1"', document
    )
    cloud.client("iot").create_policy(policyName="the-claim", policyDocument=document)
    cloud.client("iot").attach_policy(policyName="the-claim", target=device.certificate_arn)

    assert connects(device, str(uuid.uuid4()))
    taken = (
        device.thing,
        "edgewright-twin-edge-server",
        "edgewright-prod-line-1",
        "*",
        "anything",
        f"{uuid.uuid4()}#2",
    )
    assert [name for name in taken if connects(device, name)] == []


def test_policy_variables_give_a_device_its_own_topics_only(cloud: Cloud, tmp_path: Path) -> None:
    device = guarded(cloud, tmp_path / "one")
    other = guarded(cloud, tmp_path / "two")
    with connected(device) as session:
        assert session.job("$next", "get", {}).topic.endswith("accepted")

        session.client.publish(f"$aws/things/{other.thing}/jobs/get", "{}", qos=0)
        deadline = time.monotonic() + 30
        while session.client.is_connected() and time.monotonic() < deadline:
            time.sleep(0.02)

        assert not session.client.is_connected(), "a publish that the policy does not allow has to end the session"
    with pytest.raises(Exception), connected(device, client_id=other.thing, jobs=False):  # noqa: B017
        pass


def test_the_data_plane_follows_the_policy(cloud: Cloud, group: str, tmp_path: Path) -> None:
    allowed = guarded(
        cloud,
        tmp_path / "allowed",
        statement("greengrass:ListThingGroupsForCoreDevice", f"{GREENGRASS}coreDevices:*"),
        statement("greengrass:ResolveComponentCandidates", f"{GREENGRASS}*"),
        group=group,
    )
    # A thing's variables are filled for MQTT alone.
    by_name = f"{GREENGRASS}coreDevices:{THING}"
    denied = guarded(
        cloud,
        tmp_path / "denied",
        statement("greengrass:ListThingGroupsForCoreDevice", by_name),
        group=group,
        exclusively=True,
    )

    assert allowed.thing_groups().status_code == 200
    assert denied.thing_groups().status_code == 403
    assert "greengrass:ListThingGroupsForCoreDevice" in denied.thing_groups().json()["message"]
    path = "/greengrass/v2/resolveComponentCandidates"
    assert allowed.data("POST", path, json={"componentCandidates": []}).status_code == 200
    assert denied.data("POST", path, json={"componentCandidates": []}).status_code == 403


def test_credentials_follow_the_policy_and_work_where_the_role_allows(cloud: Cloud, tmp_path: Path) -> None:
    alias = make_alias(cloud, s3_rights=False)
    allowed = guarded(
        cloud, tmp_path / "allowed", statement("iot:AssumeRoleWithCertificate", f"{IOT}rolealias/{alias}")
    )
    denied = guarded(cloud, tmp_path / "denied")
    rights = {"Version": "2012-10-17", "Statement": [statement("s3:GetObject", "arn:aws:s3:::shared/allowed/*")]}
    cloud.client("iam").put_role_policy(RoleName=alias, PolicyName="read", PolicyDocument=json.dumps(rights))
    administrator = cloud.client("s3")
    administrator.create_bucket(Bucket="shared")
    for key in ("allowed/a", "secret/b"):
        administrator.put_object(Bucket="shared", Key=key, Body=b"x")

    assert denied.credentials(alias).status_code == 403
    s3 = s3_of(allowed, alias)
    assert s3.get_object(Bucket="shared", Key="allowed/a")["Body"].read() == b"x"
    with pytest.raises(s3.exceptions.ClientError, match=r"AccessDenied|403"):
        s3.get_object(Bucket="shared", Key="secret/b")
