from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest
import yaml

from config.names import NUCLEUS_TAG
from tests.twin.conftest import Clients, handlers_zip, outputs_of, trust, wait_until
from twin.cloud.edge_server import edge_server as servers
from twin.cloud.edge_server.device_process import LONGEST_DELAY_S, KeptDevice
from twin.cloud.edge_server.edge_server import UserDataError, parse, send_outcome
from twin.process import instances_folder
from twin.state import TwinState
from twin.status import EdgeServerStatus, take_status

JOIN_ACTIONS = [
    "iot:DescribeEndpoint",
    "iot:DescribeThing",
    "iot:UpdateThing",
    "iot:CreateCertificateFromCsr",
    "iot:AttachPolicy",
    "iot:AttachThingPrincipal",
    "iot:AddThingToThingGroup",
]
BUCKET = "join-code"
IMAGE = "/plant/image"
EXPORTS = {
    "REGION": "us-east-1",
    "THING_NAME": "edge-thing",
    "JOIN_FUNCTION": "edge-join",
    "ROLE_ALIAS": "edge-alias",
    "STAGE": "twin",
    "ARTIFACT_BUCKET": "bucket",
}


def user_data(**changes: str | None) -> str:
    exports = {**EXPORTS, **changes}
    lines = [f"export EDGEWRIGHT_{name}='{value}'" for name, value in exports.items() if value is not None]
    return "\n".join(["#!/bin/bash", *lines, 'echo "$EDGEWRIGHT_REGION"', ""])


def statement(actions: list[str]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}


def edge_stack(tag: str = "1") -> dict[str, Any]:
    return {
        "Type": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": "edge-type"}},
        "Group": {"Type": "AWS::IoT::ThingGroup", "Properties": {"ThingGroupName": "edge-group"}},
        "Policy": {
            "Type": "AWS::IoT::Policy",
            "Properties": {"PolicyName": "edge-policy", "PolicyDocument": statement(["iot:*", "greengrass:*"])},
        },
        "TokenExchange": {
            "Type": "AWS::IAM::Role",
            "Properties": {"AssumeRolePolicyDocument": trust("credentials.iot.amazonaws.com")},
        },
        "Alias": {
            "Type": "AWS::IoT::RoleAlias",
            "Properties": {"RoleAlias": "edge-alias", "RoleArn": {"Fn::GetAtt": ["TokenExchange", "Arn"]}},
        },
        "JoinRole": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": trust("lambda.amazonaws.com"),
                "Policies": [{"PolicyName": "iot", "PolicyDocument": statement(JOIN_ACTIONS)}],
            },
        },
        "Join": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "FunctionName": "edge-join",
                "Handler": "edge_handlers.server_join.on_request",
                "Runtime": "python3.13",
                "Code": {"S3Bucket": BUCKET, "S3Key": "join.zip"},
                "Role": {"Fn::GetAtt": ["JoinRole", "Arn"]},
                "Timeout": 30,
                "Environment": {
                    "Variables": {
                        "THING_NAME": "edge-thing",
                        "THING_GROUP": "edge-group",
                        "POLICY_NAME": "edge-policy",
                        "FINGERPRINT": "1a2b3c4d",
                    }
                },
            },
        },
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "AssumeRolePolicyDocument": trust("ec2.amazonaws.com"),
                "Policies": [{"PolicyName": "join", "PolicyDocument": statement(["lambda:InvokeFunction"])}],
            },
        },
        "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "Role"}]}},
        "Template": {
            "Type": "AWS::EC2::LaunchTemplate",
            "Properties": {
                "LaunchTemplateData": {
                    "ImageId": f"resolve:ssm:{IMAGE}",
                    "MetadataOptions": {"HttpTokens": "required"},
                }
            },
        },
        "Instance": {
            "Type": "AWS::EC2::Instance",
            "DependsOn": "Join",
            "Properties": {
                "InstanceType": "t3.small",
                "IamInstanceProfile": {"Ref": "Profile"},
                "LaunchTemplate": {
                    "LaunchTemplateId": {"Ref": "Template"},
                    "Version": {"Fn::GetAtt": ["Template", "LatestVersionNumber"]},
                },
                "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20, "Encrypted": True}}],
                "Tags": [{"Key": "revision", "Value": tag}],
                "UserData": {"Fn::Base64": user_data()},
            },
        },
    }


def edge_server(twin: TwinState, phase: str) -> EdgeServerStatus:
    def found() -> EdgeServerStatus | None:
        return next((server for server in take_status(twin).edge_servers if server.phase == phase), None)

    status = wait_until(found)
    assert isinstance(status, EdgeServerStatus)
    return status


@pytest.fixture
def thing(client: Clients) -> Any:
    iot = client("iot")
    iot.create_thing(thingName="edge-thing")
    yield "edge-thing"
    for principal in iot.list_thing_principals(thingName="edge-thing")["principals"]:
        iot.detach_thing_principal(thingName="edge-thing", principal=principal)
    iot.delete_thing(thingName="edge-thing")


@pytest.fixture
def code(client: Clients) -> Iterator[None]:
    s3 = client("s3")
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="join.zip", Body=handlers_zip())
    yield
    s3.delete_object(Bucket=BUCKET, Key="join.zip")
    s3.delete_bucket(Bucket=BUCKET)


def delete_certificates(iot: Any, policy: str) -> None:
    for principal in iot.list_targets_for_policy(policyName=policy)["targets"]:
        iot.detach_policy(policyName=policy, target=principal)
        for name in iot.list_principal_things(principal=principal)["things"]:
            iot.detach_thing_principal(thingName=name, principal=principal)
        identifier = principal.rsplit("/", 1)[-1]
        iot.update_certificate(certificateId=identifier, newStatus="INACTIVE")
        iot.delete_certificate(certificateId=identifier, forceDelete=True)


def test_an_instance_becomes_a_supervised_core_device_and_goes_with_its_stack(
    twin: TwinState,
    client: Clients,
    code: None,
    deploy: Callable[..., dict[str, Any]],
    thing: str,
) -> None:
    client("ssm").put_parameter(Name=IMAGE, Value="ami-0c2023a1b2c3d4e5f", Type="String")
    stack = deploy(
        "edge", edge_stack(), {"Instance": {"Ref": "Instance"}, "Ip": {"Fn::GetAtt": ["Instance", "PrivateIp"]}}
    )
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    instance_id = outputs_of(stack)["Instance"]
    root = instances_folder(twin.home) / instance_id
    iot, ec2 = client("iot"), client("ec2")

    first = edge_server(twin, "running")

    assert first.instance_id == instance_id
    assert first.thing_name == thing
    config = yaml.safe_load((root / "config.yaml").read_text())
    nucleus = config["services"]["aws.greengrass.NucleusLite"]["configuration"]
    assert config["system"]["rootPath"] == str(root)
    assert nucleus["iotDataEndpoint"].endswith("-ats.iot.us-east-1.amazonaws.com")
    assert nucleus["networkProxy"]["proxy"]["url"] == f"http://127.0.0.1:{twin.proxy_port}"
    assert (root / "private.pem.key").stat().st_mode & 0o077 == 0
    principals = iot.list_thing_principals(thingName=thing)["principals"]
    assert [principal.rpartition("/")[2] for principal in principals] == [
        json.loads((root / "joined.json").read_text())["certificateId"]
    ]
    assert iot.list_things_in_thing_group(thingGroupName="edge-group")["things"] == [thing]
    (volume,) = ec2.describe_volumes()["Volumes"]
    assert (volume["Size"], volume["Encrypted"]) == (20, True)

    # it is started again when it dies
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    second = wait_until(lambda: (now := edge_server(twin, "running")).pid not in (None, first.pid) and now)
    assert psutil.pid_exists(second.pid)

    # it has the classic nucleus' dialect as long as a tag says that the stage has no other
    assert nucleus["dialect"] == "lite"
    ec2.create_tags(Resources=[instance_id], Tags=[{"Key": NUCLEUS_TAG, "Value": "classic"}])
    wait_until(lambda: "dialect: classic" in (root / "config.yaml").read_text())
    third = wait_until(lambda: (now := edge_server(twin, "running")).pid not in (None, second.pid) and now)
    assert third.thing_name == thing

    # a change of tags keeps the instance, a new image of the distribution does, too; a failed update rolls back
    client("ssm").put_parameter(Name=IMAGE, Value="ami-0c2023a1b2c3d4e5a", Type="String", Overwrite=True)
    stack = deploy("edge", edge_stack(tag="2"), {"Instance": {"Ref": "Instance"}})
    assert outputs_of(stack)["Instance"] == instance_id
    broken = {
        **edge_stack(tag="3"),
        "Broken": {"Type": "AWS::EC2::Instance", "DependsOn": "Instance", "Properties": {}},
    }
    assert deploy("edge", broken)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    (reservation,) = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"]
    assert {"Key": "revision", "Value": "2"} in reservation["Instances"][0]["Tags"]

    # it goes with its instance
    without = {name: resource for name, resource in edge_stack().items() if name != "Instance"}
    assert deploy("edge", without)["StackStatus"] == "UPDATE_COMPLETE"
    assert not root.exists()
    wait_until(lambda: not psutil.pid_exists(second.pid))
    assert ec2.describe_volumes()["Volumes"] == []
    delete_certificates(iot, "edge-policy")


def test_other_user_data_is_no_edge_server() -> None:
    assert parse("#!/bin/bash\necho hello\n") is None


def test_settings_are_read_from_plain_and_encoded_user_data() -> None:
    plain = user_data()

    assert parse(plain) == parse(base64.b64encode(plain.encode()).decode())
    edge = parse(plain)
    assert edge is not None
    assert edge.role_alias == "edge-alias"


def test_missing_settings_are_named_together() -> None:
    with pytest.raises(UserDataError, match="EDGEWRIGHT_THING_NAME, EDGEWRIGHT_ROLE_ALIAS"):
        parse(user_data(THING_NAME=None, ROLE_ALIAS=""))


class Unstartable:
    """A device whose folder is on a full disk at first."""

    alive, ending = False, "ended"

    def __init__(self, failures: int) -> None:
        self._failures = failures

    def start(self) -> None:
        self._failures -= 1
        if self._failures >= 0:
            raise OSError(28, "No space left on device", "log")
        self.alive = True


def test_a_device_that_cannot_be_started_is_tried_again() -> None:
    process: Any = Unstartable(2)
    kept = KeptDevice(process)
    kept._delay_s = 0.0

    told = [kept.look() for _ in range(4)]

    cause = "core device cannot be started: [Errno 28] No space left on device: 'log'; next start in 0.0 s"
    assert told == [("restarting", cause), ("restarting", cause), ("running", "core device started"), None]
    process.alive = False
    assert kept.look() == ("restarting", "core device ended; next start in 0.0 s")


def test_a_device_that_has_run_for_a_while_comes_back_at_once_however_often_it_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moments = itertools.count(0, 20)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(moments)))
    process: Any = Unstartable(0)
    kept = KeptDevice(process)

    told = []
    for _ in range(6):
        kept.look()
        process.alive = False
        told.append(kept.look())

    assert told == [("restarting", "core device ended; next start in 0.5 s")] * 6


def test_a_device_that_cannot_be_started_is_not_tried_at_each_look() -> None:
    process: Any = Unstartable(9)
    kept = KeptDevice(process)
    kept._delay_s = LONGEST_DELAY_S

    assert kept.look() is not None
    assert [kept.look() for _ in range(3)] == [None, None, None]


def test_an_outcome_that_does_not_arrive_is_sent_again_until_the_instance_goes() -> None:
    class Busy(BaseHTTPRequestHandler):
        received: ClassVar[list[dict[str, str]]] = []

        def do_PUT(self) -> None:
            self.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            over = self.path.endswith("/over")
            self.send_response(404 if over else 503 if len(self.received) < 3 else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        url = f"http://127.0.0.1:{server.server_port}/signal"
        send_outcome(url, "edge-thing", "it is one", lambda: False, success=True)
        told = list(Busy.received)
        Busy.received.clear()
        send_outcome(url, "edge-thing", "its instance goes", lambda: True, success=True)
        send_outcome(f"{url}/over", "edge-thing", "its stack is over", lambda: False, success=True)
        server.shutdown()
        serving.join()

    assert [each["Status"] for each in told] == ["SUCCESS"] * 3
    assert [each["Reason"] for each in Busy.received] == ["its instance goes", "its stack is over"]


def test_a_device_is_watched_while_its_joining_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, watched = threading.Event(), threading.Event()
    news = iter([("running", "core device started"), None])

    def look(_self: object) -> tuple[str, str] | None:
        if (found := next(news, "end")) == "end":
            watched.set()
            return None
        return found  # type: ignore[return-value]

    monkeypatch.setattr(servers, "provision", lambda *_: None)
    monkeypatch.setattr(servers, "send_outcome", lambda *_args, **_named: heard.wait(60))
    monkeypatch.setattr(servers.EdgeServer, "_credentials", lambda _self: None)
    monkeypatch.setattr(KeptDevice, "look", look)
    monkeypatch.setattr(KeptDevice, "adopt", lambda _self: False)
    settings: Any = SimpleNamespace(home=tmp_path, proxy_port=1)
    edge = parse(user_data(SIGNAL_URL="http://127.0.0.1:1/signal"))
    assert edge is not None

    async def watch() -> bool:
        server = servers.EdgeServer("0" * 12, "i-1", "", edge, settings)
        life = asyncio.create_task(server.run())
        try:
            return await asyncio.to_thread(watched.wait, 30)
        finally:
            heard.set()
            life.cancel()
            await server.abandon_provisioning()

    assert asyncio.run(watch())


def test_whatever_keeps_a_server_from_joining_is_told_to_cloudformation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, bool]] = []

    def provision(*_: object) -> None:
        raise RuntimeError("nobody has thought of this")

    def send(_url: str, _thing: str, reason: str, _cancelled: object, *, success: bool) -> None:
        told.append((reason, success))

    monkeypatch.setattr(servers, "provision", provision)
    monkeypatch.setattr(servers, "send_outcome", send)
    monkeypatch.setattr(servers.EdgeServer, "_credentials", lambda _self: None)
    settings: Any = SimpleNamespace(home=tmp_path, proxy_port=1)
    edge = parse(user_data(SIGNAL_URL="http://127.0.0.1:1/signal"))
    assert edge is not None

    asyncio.run(servers.EdgeServer("0" * 12, "i-1", "", edge, settings).run())

    assert told == [("could not be made a core device: nobody has thought of this", False)]
