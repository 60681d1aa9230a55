"""A stack that is deleted while it is created: the creation ends first, and what its handler began goes with it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.twin.conftest import Clients, saved, settle, wait_until
from twin import lifecycle

BEGUN = """
import json, os, urllib.request, boto3

def handler(event, context):
    ssm = boto3.client("ssm", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    name = event["ResourceProperties"]["Parameter"]
    if event["RequestType"] == "Create":
        ssm.put_parameter(Name=name, Value="begun", Type="String")
        return  # and never answers
    ssm.delete_parameter(Name=name)
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId", "PhysicalResourceId")}
    body = json.dumps({**answer, "Status": "SUCCESS"}).encode()
    urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], data=body, method="PUT"))
"""
ROLE = {
    "Type": "AWS::IAM::Role",
    "Properties": {
        "AssumeRolePolicyDocument": {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"Service": "lambda.amazonaws.com"},
                    "Action": "sts:AssumeRole",
                }
            ],
        },
        "Policies": [
            {
                "PolicyName": "parameters",
                "PolicyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{"Effect": "Allow", "Action": "ssm:*", "Resource": "*"}],
                },
            }
        ],
    },
}


def template(name: str) -> str:
    function = {
        "Handler": "index.handler",
        "Runtime": "python3.13",
        "Role": {"Fn::GetAtt": ["Role", "Arn"]},
        "Code": {"ZipFile": BEGUN},
        "Timeout": 60,
    }
    begun = {"ServiceToken": {"Fn::GetAtt": ["Handler", "Arn"]}, "Parameter": f"/begun/{name}"}
    after = {"Type": "String", "Value": "1", "Name": f"/after/{name}"}
    resources = {
        "Role": ROLE,
        "Handler": {"Type": "AWS::Lambda::Function", "Properties": function},
        "Begun": {"Type": "Custom::Begun", "Properties": begun},
        "After": {"Type": "AWS::SSM::Parameter", "DependsOn": "Begun", "Properties": after},
    }
    return json.dumps({"Resources": resources})


def parameters(ssm: Any) -> list[str]:
    return [each["Name"] for each in ssm.describe_parameters()["Parameters"]]


@contextmanager
def being_created(cloudformation: Any, ssm: Any, name: str) -> Iterator[None]:
    """A stack whose handler has begun and does not answer; creating it is answered late, or not at all."""

    def create() -> None:
        try:
            cloudformation.create_stack(
                StackName=name, TemplateBody=template(name), Capabilities=["CAPABILITY_NAMED_IAM"]
            )
        except Exception:  # noqa: BLE001 - the cloud may be killed meanwhile
            return

    thread = threading.Thread(target=create)
    thread.start()
    wait_until(lambda: f"/begun/{name}" in parameters(ssm))
    yield
    thread.join(60)


def deleted(cloudformation: Any, name: str) -> bool:
    try:
        (stack,) = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError:
        return True
    assert stack["StackStatus"] in ("DELETE_IN_PROGRESS", "DELETE_COMPLETE"), stack
    return bool(stack["StackStatus"] == "DELETE_COMPLETE")


def test_a_delete_stops_the_creation_and_takes_away_what_its_handler_began(client: Clients) -> None:
    cloudformation, ssm = client("cloudformation"), client("ssm")
    with being_created(cloudformation, ssm, "stopped"):
        identifier = cloudformation.describe_stacks(StackName="stopped")["Stacks"][0]["StackId"]

        cloudformation.delete_stack(StackName="stopped")
        cloudformation.delete_stack(StackName="stopped")
        wait_until(lambda: deleted(cloudformation, identifier))

    told = cloudformation.describe_stack_events(StackName=identifier)["StackEvents"]
    assert not {"/begun/stopped", "/after/stopped"} & set(parameters(ssm))
    assert "Resource creation cancelled" in [event.get("ResourceStatusReason") for event in told]
    assert "After" not in [event["LogicalResourceId"] for event in told]


def test_what_a_handler_began_before_the_cloud_was_killed_goes_with_its_stack(home: Path) -> None:
    state = lifecycle.start(home)
    once = Config(retries={"total_max_attempts": 1})
    cloudformation, ssm = (
        boto3.client(each, config=once, **state.client_arguments()) for each in ("cloudformation", "ssm")
    )
    with being_created(cloudformation, ssm, "killed"):
        wait_until(lambda: "begun/killed" in saved(home, "ssm"))
        os.kill(state.pid, signal.SIGKILL)
        os.waitpid(state.pid, 0)

    lifecycle.start(home)
    settled = settle(cloudformation, "killed")
    cloudformation.delete_stack(StackName="killed")
    wait_until(lambda: deleted(cloudformation, settled["StackId"]))

    assert settled["StackStatus"] == "ROLLBACK_FAILED"
    assert parameters(ssm) == []


def test_a_bucket_that_no_snapshot_knows_is_gone_after_a_kill(home: Path) -> None:
    state = lifecycle.start(home)
    s3 = boto3.client("s3", **state.client_arguments())
    s3.create_bucket(Bucket="known")
    s3.put_object(Bucket="known", Key="key", Body=b"content")
    wait_until(lambda: "known" in saved(home, "s3"))
    os.kill(state.pid, signal.SIGKILL)
    os.waitpid(state.pid, 0)
    unknown = home / "s3" / state.account / "unknown"
    unknown.mkdir(parents=True)
    (unknown / "key").write_bytes(b"content")

    lifecycle.start(home)

    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["known"]
    assert s3.get_object(Bucket="known", Key="key")["Body"].read() == b"content"


def test_what_a_rollback_could_not_delete_is_deleted_with_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    from ministack.services import cloudformation

    from twin.cloud import stack_deletion

    left = {"PhysicalResourceId": "job", "ResourceType": "Custom::Job", "Properties": {}}
    stack = {"_resources": {}, "_rollback_failed": {"Job": left, "Changed": {"RevertFrom": {}}}}
    monkeypatch.setattr(cloudformation, "_stacks", {"stack": stack})

    stack_deletion._take_back("stack")

    assert list(stack["_resources"]) == ["Job"]


REFUSES = """
import json, os, urllib.request, boto3

def handler(event, context):
    ssm = boto3.client("ssm", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    refused = event["RequestType"] == "Delete" and ssm.describe_parameters()["Parameters"]
    answer = {key: event[key] for key in ("StackId", "RequestId", "LogicalResourceId")}
    answer |= {"PhysicalResourceId": "made", "Reason": "one is left", "Status": "FAILED" if refused else "SUCCESS"}
    body = json.dumps(answer).encode()
    urllib.request.urlopen(urllib.request.Request(event["ResponseURL"], data=body, method="PUT"))
"""


def test_what_a_custom_resource_needs_is_kept_until_it_could_be_deleted(home: Path) -> None:
    state = lifecycle.start(home)
    cloudformation, ssm, functions = (
        boto3.client(each, **state.client_arguments()) for each in ("cloudformation", "ssm", "lambda")
    )
    resources = json.loads(template("refusing"))["Resources"]
    resources["Handler"]["Properties"]["Code"] = {"ZipFile": REFUSES}
    body = json.dumps({"Resources": {**resources, "Alone": {"Type": "AWS::SNS::Topic"}}})
    cloudformation.create_stack(StackName="refusing", TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"])
    identifier = settle(cloudformation, "refusing")["StackId"]
    ssm.put_parameter(Name="/left", Value="1", Type="String")

    cloudformation.delete_stack(StackName="refusing")
    failed = settle(cloudformation, "refusing")

    assert failed["StackStatus"] == "DELETE_FAILED"
    left = cloudformation.describe_stack_resources(StackName="refusing")["StackResources"]
    assert {each["LogicalResourceId"] for each in left} == {"Role", "Handler", "Begun"}
    assert "because Begun needs it" in str(cloudformation.describe_stack_events(StackName="refusing"))
    assert len(functions.list_functions()["Functions"]) == 1
    ssm.delete_parameter(Name="/left")
    cloudformation.delete_stack(StackName="refusing")
    wait_until(lambda: deleted(cloudformation, identifier))
    assert functions.list_functions()["Functions"] == []


def test_a_handler_whose_code_is_lost_fails_at_once_and_is_named(home: Path) -> None:
    cloudformation = boto3.client("cloudformation", **lifecycle.start(home).client_arguments())
    resources = json.loads(template("lost"))["Resources"]
    resources["Handler"]["Properties"]["Code"] = {"ZipFile": REFUSES}
    cloudformation.create_stack(
        StackName="lost", TemplateBody=json.dumps({"Resources": resources}), Capabilities=["CAPABILITY_NAMED_IAM"]
    )
    assert settle(cloudformation, "lost")["StackStatus"] == "CREATE_COMPLETE"
    lifecycle.stop(home)
    for path in (home / "state" / "lambda-blobs").iterdir():
        path.unlink()
    lifecycle.start(home)

    cloudformation.delete_stack(StackName="lost")

    assert settle(cloudformation, "lost")["StackStatus"] == "DELETE_FAILED"
    assert "is lost: deploy its stack again" in str(cloudformation.describe_stack_events(StackName="lost"))
