"""What is stored is encrypted, private and swept or kept as the stage says."""

import json
from typing import Any

import pytest
from aws_cdk.assertions import Match, Template

from config.loader import read_context
from edge_constructs.artifact_store import ArtifactBucket, ArtifactStore, EncryptionKey
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
    prod.all_resources("AWS::S3::Bucket", {"DeletionPolicy": "RetainExceptOnCreate", "UpdateReplacePolicy": "Retain"})
    prod.all_resources("AWS::KMS::Key", {"DeletionPolicy": "RetainExceptOnCreate"})
    assert "edgewright:disposable" not in str(template("prod", "Storage"))


def test_uploads_with_another_key_or_another_encryption_are_denied(twin: Template) -> None:
    header = "s3:x-amz-server-side-encryption"
    denials = {
        statement["Sid"]: statement
        for policy in resources("twin", "Storage", "AWS::S3::BucketPolicy")
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]
        if "Sid" in statement
    }

    assert denials["OnlyKms"]["Condition"] == {"StringNotEquals": {header: "aws:kms"}, "Null": {header: "false"}}
    only_this_key = denials["OnlyThisKey"]["Condition"]
    assert only_this_key["Null"] == {f"{header}-aws-kms-key-id": "false"}
    assert "Fn::GetAtt" in only_this_key["StringNotEquals"][f"{header}-aws-kms-key-id"]
    assert {(each["Effect"], each["Action"]) for each in denials.values()} == {("Deny", "s3:PutObject")}


def test_captures_results_and_what_candidates_said_go_while_artifacts_stay(twin: Template) -> None:
    (rules,) = [
        bucket["Properties"]["LifecycleConfiguration"]["Rules"]
        for bucket in resources("twin", "Storage", "AWS::S3::Bucket")
        if "-artifacts-" in json.dumps(bucket["Properties"]["BucketName"])
    ]
    by_id = {rule["Id"]: rule for rule in rules}

    assert by_id["captures"]["Prefix"] == "captures/"
    assert [each["StorageClass"] for each in by_id["captures"]["Transitions"]] == ["STANDARD_IA", "GLACIER_IR"]
    assert by_id["old-versions"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 30}
    assert by_id["uploads-that-never-ended"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert by_id["results"]["Prefix"] == "results/"
    assert (by_id["promotions"]["Prefix"], by_id["promotions"]["ExpirationInDays"]) == ("promotions/", 30)
    assert {rule["Id"] for rule in rules if "ExpirationInDays" in rule} == {"captures", "promotions", "results"}


def test_packages_are_signed_with_a_key_that_a_throwaway_stage_gives_up(twin: Template, prod: Template) -> None:
    signing = {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}

    twin.has_resource("AWS::KMS::Key", {"Properties": signing, "DeletionPolicy": "Delete"})
    prod.has_resource("AWS::KMS::Key", {"Properties": signing, "DeletionPolicy": "RetainExceptOnCreate"})


def role_of(function: str) -> list[dict[str, Any]]:
    (role,) = [
        each
        for name, each in template("twin", "Storage")["Resources"].items()
        if name.startswith(f"Store{function}Role")
    ]
    statements: list[dict[str, Any]] = role["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]
    return statements


@pytest.mark.parametrize("name", ["artifacts", "access-logs"])
def test_the_sweep_may_list_and_delete_in_each_bucket_that_it_sweeps(name: str) -> None:
    for action, end in (("s3:ListBucketVersions", ""), ("s3:DeleteObjectVersion", "/*")):
        (statement,) = [each for each in role_of("Sweep") if action in each["Action"]]
        named = [json.dumps(each) for each in statement["Resource"]]
        assert len([each for each in named if f"edgewright-twin-{name}-" in each and f'-us-east-1{end}"' in each]) == 1


def test_the_access_log_is_swept_after_the_bucket_that_fills_it_is_gone() -> None:
    content = template("twin", "Storage")["Resources"]
    (artifacts,) = [each for name, each in content.items() if name.startswith("Artifacts80")]
    (sweep,) = [name for name in content if name.startswith("StoreAccessLogsSweep")]

    assert sweep in artifacts["DependsOn"]


def store(context: dict[str, str], *, bootstrap_key: bool) -> str:
    """The copy's permissions in an app with other bootstrap settings."""
    import aws_cdk as cdk

    stack = cdk.Stack(cdk.App(context={**read_context(), **context}), "Other")
    key = EncryptionKey(stack, "Key", retain=False)
    bucket = ArtifactBucket(stack, "Artifacts", name="artifacts", log_name="logs", key=key, retain=False)
    ArtifactStore(stack, "Store", bucket=bucket, retain=True, bootstrap_key=bootstrap_key)
    return json.dumps(Template.from_stack(stack).find_resources("AWS::IAM::Role"))


def test_the_copy_reads_the_bootstrap_bucket_of_the_apps_own_qualifier() -> None:
    told = store({"@aws-cdk/core:bootstrapQualifier": "team42"}, bootstrap_key=False)

    assert ":s3:::cdk-team42-assets-" in told
    assert "hnb659fds" not in told
    assert "Fn::ImportValue" not in told


def test_a_bootstrap_with_a_key_of_its_own_can_be_read() -> None:
    told = store({"@aws-cdk/core:bootstrapQualifier": "team42"}, bootstrap_key=True)

    assert '"Action": ["kms:Decrypt"]' in told
    assert '{"Fn::ImportValue": "CdkBootstrap-team42-FileAssetKeyArn"}' in told


def test_what_is_kept_goes_with_a_deploy_that_fails(prod: Template, twin: Template) -> None:
    kinds = {"AWS::KMS::Key", "AWS::S3::Bucket"}

    for stage, policies in ((prod, {("RetainExceptOnCreate", "Retain")}), (twin, {("Delete", "Delete")})):
        found = [each for each in stage.to_json()["Resources"].values() if each["Type"] in kinds]
        assert {(each["DeletionPolicy"], each["UpdateReplacePolicy"]) for each in found} == policies
