"""Where the twin corrects or completes MiniStack."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import botocore.session
import pytest
from botocore.exceptions import ClientError

from tests.twin.conftest import Clients, outputs_of, settle, trust
from twin.cloud.authorization import resource_arn
from twin.cloud.aws.shapes import _metadata
from twin.cloud.sagemaker.api import SageMakerApi
from twin.cloud.stack_operations import fail_interrupted

Deploy = Callable[..., dict[str, Any]]


def test_a_bucket_with_objects_is_not_deleted_with_its_stack(client: Clients, deploy: Deploy) -> None:
    stack = deploy("full-bucket", {"Bucket": {"Type": "AWS::S3::Bucket"}}, {"Bucket": {"Ref": "Bucket"}})
    bucket = outputs_of(stack)["Bucket"]
    client("s3").put_object(Bucket=bucket, Key="key", Body=b"content")

    client("cloudformation").delete_stack(StackName=stack["StackId"])

    assert settle(client("cloudformation"), stack["StackId"])["StackStatus"] == "DELETE_FAILED"
    assert client("s3").get_object(Bucket=bucket, Key="key")["Body"].read() == b"content"
    client("s3").delete_object(Bucket=bucket, Key="key")


def test_tags_and_encryption_of_a_bucket_follow_its_stack(client: Clients, deploy: Deploy) -> None:
    encryption = {"ServerSideEncryptionConfiguration": [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]}
    properties = {"BucketName": "tagged", "Tags": [{"Key": "a", "Value": "1"}], "BucketEncryption": encryption}

    deploy("tagged-bucket", {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": properties}})
    s3 = client("s3")

    assert s3.get_bucket_tagging(Bucket="tagged")["TagSet"] == [{"Key": "a", "Value": "1"}]
    rules = s3.get_bucket_encryption(Bucket="tagged")["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"

    deploy("tagged-bucket", {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "tagged"}}})

    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket="tagged")


def test_the_lifecycle_of_a_bucket_follows_its_stack(client: Clients, deploy: Deploy) -> None:
    rules = [
        {"Id": "old", "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 90}},
        {
            "Status": "Enabled",
            "Prefix": "results/",
            "ExpirationInDays": 365,
            "Transitions": [{"StorageClass": "GLACIER", "TransitionInDays": 30}],
        },
        {"Status": "Disabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
    ]
    properties = {"BucketName": "cycled", "LifecycleConfiguration": {"Rules": rules}}

    deploy("cycled-bucket", {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": properties}})
    old, results, uploads = client("s3").get_bucket_lifecycle_configuration(Bucket="cycled")["Rules"]

    assert (old["ID"], old["NoncurrentVersionExpiration"]) == ("old", {"NoncurrentDays": 90})
    assert results["Filter"] == {"Prefix": "results/"}
    assert results["Expiration"] == {"Days": 365}
    assert results["Transitions"] == [{"Days": 30, "StorageClass": "GLACIER"}]
    assert (uploads["Status"], uploads["AbortIncompleteMultipartUpload"]) == ("Disabled", {"DaysAfterInitiation": 7})

    deploy("cycled-bucket", {"Bucket": {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": "cycled"}}})

    with pytest.raises(ClientError, match="NoSuchLifecycleConfiguration"):
        client("s3").get_bucket_lifecycle_configuration(Bucket="cycled")


def test_ref_of_an_instance_profile_is_its_name(client: Clients, deploy: Deploy) -> None:
    role = {"Type": "AWS::IAM::Role", "Properties": {"AssumeRolePolicyDocument": trust("ec2.amazonaws.com")}}
    profile = {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": [{"Ref": "Role"}]}}
    stack = deploy("profile", {"Role": role, "Profile": profile}, {"Name": {"Ref": "Profile"}})

    name = outputs_of(stack)["Name"]

    found = client("iam").get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    assert len(found["Roles"]) == 1


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_amazon_linux_images_have_public_parameters(client: Clients, architecture: str) -> None:
    name = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-6.1-{architecture}"

    assert client("ssm").get_parameter(Name=name)["Parameter"]["Value"].startswith("ami-")


@pytest.mark.parametrize(
    ("before", "after"),
    [("CREATE_IN_PROGRESS", "ROLLBACK_FAILED"), ("DELETE_IN_PROGRESS", "DELETE_FAILED"), ("UPDATE_COMPLETE", None)],
)
def test_an_interrupted_operation_has_failed(before: str, after: str | None) -> None:
    stack = {"StackStatus": before, "_resources": {"A": {"ResourceStatus": "CREATE_IN_PROGRESS"}}}

    assert fail_interrupted(stack) is (after is not None)

    assert stack["StackStatus"] == (after or before)


@pytest.mark.parametrize(
    ("service", "path", "body", "resource"),
    [
        ("sagemaker", "/", b'{"CompilationJobName": "j"}', "arn:aws:sagemaker:r:1:compilation-job/j"),
        ("sagemaker", "/", b'{"DeviceFleetName": "f"}', "arn:aws:sagemaker:r:1:device-fleet/f"),
        (
            "sagemaker",
            "/",
            b'{"DeviceFleetName": "f", "Devices": [{"DeviceName": "d"}, {"DeviceName": "e"}]}',
            "arn:aws:sagemaker:r:1:device-fleet/f/device/d",
        ),
        (
            "sagemaker",
            "/",
            b'{"DeviceFleetName": "f", "DeviceNames": ["d"]}',
            "arn:aws:sagemaker:r:1:device-fleet/f/device/d",
        ),
        (
            "sagemaker",
            "/",
            b'{"DeviceFleetName": "f", "Devices": [1]}',
            "arn:aws:sagemaker:r:1:device-fleet/f/device/1",
        ),
        ("sagemaker", "/", b"[]", "*"),
        ("greengrass", "/greengrass/v2/deployments/d/cancel", b"", "arn:aws:greengrass:r:1:deployments:d"),
        ("greengrass", "/greengrass/v2/coreDevices/t", b"", "arn:aws:greengrass:r:1:coreDevices:t"),
        ("iot", "/role-aliases/a", b"", "arn:aws:iot:r:1:rolealias/a"),
        ("s3", "/bucket", b"", None),
    ],
)
def test_calls_are_authorised_on_their_resource(service: str, path: str, body: bytes, resource: str | None) -> None:
    assert resource_arn(service, path, body, "r", "1") == resource


def test_each_call_about_something_of_sagemakers_is_authorised_on_it() -> None:
    calls = sorted(SageMakerApi(*(MagicMock() for _ in range(4)))._operations)
    model = botocore.session.get_session().get_service_model("sagemaker")

    def resource(call: str) -> str | None:
        required = [] if (shape := model.operation_model(call).input_shape) is None else shape.required_members
        body = json.dumps(dict.fromkeys(required, "x"))
        return resource_arn("sagemaker", "/", body.encode(), "r", "1")

    assert [call for call in calls if resource(call) == "*"] == [call for call in calls if call.startswith("List")]


def test_a_member_of_sagemakers_that_is_null_is_one_that_is_not_given() -> None:
    endpoints = MagicMock(list=MagicMock(return_value={"Models": []}))
    api = SageMakerApi(MagicMock(), MagicMock(), endpoints, MagicMock())
    headers = {"x-amz-target": "SageMaker.ListModels"}

    status, _headers, _body = asyncio.run(api.handle("POST", "/", headers, b'{"NameContains": null}', {}))

    assert status == 200
    endpoints.list.assert_called_once_with("Model", {})


@pytest.mark.parametrize("service", ["cloudformation", "ec2", "iam", "monitoring", "s3", "states"])
def test_metadata_of_a_service_are_read_without_its_whole_model(service: str) -> None:
    whole = {"monitoring": "cloudwatch", "states": "stepfunctions"}.get(service, service)

    found = _metadata(MagicMock(side_effect=AssertionError), service)

    assert found.metadata == botocore.session.get_session().get_service_model(whole).metadata


@pytest.mark.parametrize("service", ["mediapackage", "not-a-service"])
def test_metadata_that_are_not_at_the_beginning_are_read_by_ministack(service: str) -> None:
    assert _metadata(lambda name: f"all of {name}", service) == f"all of {service}"
