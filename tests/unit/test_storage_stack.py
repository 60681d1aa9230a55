"""What is stored is encrypted, private and swept or kept as the stage says."""

import pytest
from aws_cdk.assertions import Match, Template

from tests.synthesis import resources, template


@pytest.fixture(scope="module")
def twin() -> Template:
    return Template.from_json(template("twin", "Storage"))


@pytest.fixture(scope="module")
def prod() -> Template:
    return Template.from_json(template("prod", "Storage"))


def test_artifacts_are_versioned_encrypted_by_the_rotated_key_and_logged(twin: Template) -> None:
    twin.has_resource_properties("AWS::KMS::Key", {"EnableKeyRotation": True})
    twin.has_resource_properties(
        "AWS::S3::Bucket",
        {
            "BucketName": {"Fn::Join": ["", ["edgewright-twin-artifacts-", {"Ref": "AWS::AccountId"}, "-us-east-1"]]},
            "VersioningConfiguration": {"Status": "Enabled"},
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {
                            "SSEAlgorithm": "aws:kms",
                            "KMSMasterKeyID": Match.any_value(),
                        },
                    }
                ]
            },
            "LoggingConfiguration": {"DestinationBucketName": Match.any_value(), "LogFilePrefix": "artifacts/"},
        },
    )


@pytest.mark.parametrize("stage", ["twin", "prod"])
def test_no_bucket_is_public_and_every_one_refuses_plain_http(stage: str) -> None:
    buckets = resources(stage, "Storage", "AWS::S3::Bucket")
    policies = resources(stage, "Storage", "AWS::S3::BucketPolicy")

    assert len(buckets) == len(policies) == 2
    for bucket in buckets:
        assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    for policy in policies:
        denials = [each for each in policy["Properties"]["PolicyDocument"]["Statement"] if each["Effect"] == "Deny"]
        assert {"Bool": {"aws:SecureTransport": "false"}} in [denial["Condition"] for denial in denials]


def test_a_throwaway_stage_sweeps_both_buckets_before_they_are_deleted(twin: Template) -> None:
    twin.resource_count_is("Custom::BucketSweep", 2)
    twin.all_resources("AWS::S3::Bucket", {"DeletionPolicy": "Delete"})
    twin.all_resources_properties("Custom::BucketSweep", {"RequiredTag": "edgewright:disposable"})
    twin.all_resources_properties(
        "AWS::S3::Bucket", {"Tags": Match.array_with([{"Key": "edgewright:disposable", "Value": "true"}])}
    )


def test_prod_keeps_key_and_buckets_and_sweeps_nothing(prod: Template) -> None:
    prod.resource_count_is("Custom::BucketSweep", 0)
    prod.all_resources("AWS::S3::Bucket", {"DeletionPolicy": "Retain", "UpdateReplacePolicy": "Retain"})
    prod.all_resources("AWS::KMS::Key", {"DeletionPolicy": "Retain"})
    assert "edgewright:disposable" not in str(template("prod", "Storage"))
