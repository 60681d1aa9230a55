"""What a stage meets besides deploys and predictions, so that tools/least_privilege.py sees who needs which right."""

from __future__ import annotations

import json
import time
from typing import Any

from config.names import Names
from tools.offline_deploy import OfflineDeploy
from twin.operator import OperatorClient

_LIMIT_S = 60.0
_NO_NUMBER = "1e999"
_CREATE = "$aws/certificates/create/json"
_SERIAL = "least-privilege"


class PathError(RuntimeError):
    """Something that should have happened did not; the message says what."""


def send_what_rules_refuse(operator: OperatorClient, names: Names) -> None:
    """Publish messages whose metric no rule can put, so that each rule writes down that it failed, and an error.

    Args:
        operator: Connected client.
        names: Topics of the stage.

    Raises:
        TwinError: The broker does not take a message.
    """
    answers = names.response_topic("digits")
    for topic, message in (
        (answers, {"id": "r1", "latency_ms": _NO_NUMBER}),
        (answers, {"id": "r2", "top_k": [{"label": "7", "probability": _NO_NUMBER}]}),
        (answers, {"id": "r3", "error": {"code": "InvalidInput", "message": "no JSON"}}),
        (names.heartbeat_topic, {"uptime_s": _NO_NUMBER}),
    ):
        operator.publish(topic, json.dumps(message).encode())


def join_by_claim(deploy: OfflineDeploy, operator: OperatorClient, names: Names) -> None:
    """Register a thing, let it trade a claim for a certificate of its own, and leave a claim certificate behind.

    Args:
        deploy: Of the stage.
        operator: Connected client; it asks in the device's place.
        names: Of the stage.

    Raises:
        PathError: AWS IoT refused it; the message is the answer.
        TwinError: The broker does not answer.
    """
    iot, thing = deploy.client("iot"), f"{names.prefix}-{_SERIAL}"
    marks = {"attributes": {"edgewright-registry": names.thing_group}}
    iot.create_thing(thingName=thing, thingTypeName=names.thing_type, attributePayload=marks)
    iot.add_thing_to_thing_group(thingGroupName=names.thing_group, thingName=thing)
    claim = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_policy(policyName=names.claim, target=claim["certificateArn"])
    token = _call(operator, _CREATE, {})["certificateOwnershipToken"]
    request = {"certificateOwnershipToken": token, "parameters": {"SerialNumber": _SERIAL}}
    _call(operator, f"$aws/provisioning-templates/{names.claim}/provision/json", request)


def _call(operator: OperatorClient, topic: str, request: dict[str, Any]) -> dict[str, Any]:
    with operator.listen(f"{topic}/accepted") as accepted, operator.listen(f"{topic}/rejected") as rejected:
        operator.publish(topic, json.dumps(request).encode())
        deadline = time.monotonic() + _LIMIT_S
        while accepted.empty():
            if not rejected.empty():
                raise PathError(f"{topic} must be accepted, got {rejected.get().decode(errors='replace')[:300]}")
            if time.monotonic() > deadline:
                raise PathError(f"{topic} must be answered within {_LIMIT_S:.0f} s, it was not")
            time.sleep(0.05)
        answer: dict[str, Any] = json.loads(accepted.get())
        return answer


def leave_deployments(deploy: OfflineDeploy, names: Names) -> None:
    """Deploy past CloudFormation: to a ring, as an interrupted deploy does, and to one device, as an operator does.

    A destroy has to find the first, and to delete a core device that has the second.

    Args:
        deploy: Of the stage.
        names: Of the stage.
    """
    iot, greengrass = deploy.client("iot"), deploy.client("greengrassv2")
    ring = iot.describe_thing_group(thingGroupName=names.ring_group("canary"))["thingGroupArn"]
    device = iot.describe_thing(thingName=names.edge_server)["thingArn"]
    for target in (ring, device):
        greengrass.create_deployment(targetArn=target, components={})


def wait_for_captures(deploy: OfflineDeploy, names: Names) -> None:
    """Wait until the device has uploaded an input that its model was not sure of.

    Args:
        deploy: Of the stage; the bucket is in its account and region.
        names: Of the stage.

    Raises:
        PathError: There is none within a minute.
    """
    account, region = deploy.environment["CDK_DEFAULT_ACCOUNT"], deploy.environment["CDK_DEFAULT_REGION"]
    bucket, s3 = names.artifact_bucket(account, region), deploy.client("s3")
    deadline = time.monotonic() + _LIMIT_S
    while not s3.list_objects_v2(Bucket=bucket, Prefix="captures/").get("KeyCount"):
        if time.monotonic() > deadline:
            raise PathError(f"s3://{bucket}/captures/ must have an object within {_LIMIT_S:.0f} s, it has none")
        time.sleep(0.5)
