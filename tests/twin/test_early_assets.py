"""Large assets are published while the command line starts: by its role, once, and never a reason to fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.twin.conftest import Clients
from tools import offline_deploy
from tools.offline_deploy import OfflineDeploy
from twin.state import TwinState

BUCKET, ROLE, KEY = "assets-000000000000-us-east-1", "publishing-000000000000", "digest.zip"
CONTENT = b"wheels" * 100


@pytest.fixture
def deploy(twin: TwinState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OfflineDeploy:
    monkeypatch.setattr(offline_deploy, "_LARGE_BYTES", len(CONTENT))
    found = OfflineDeploy(environment=twin.environment(), out=tmp_path)
    found.assembly.mkdir()
    (found.assembly / "large.zip").write_bytes(CONTENT)
    (found.assembly / "small.json").write_bytes(b"{}")
    destination = {
        "bucketName": "assets-${AWS::AccountId}-${AWS::Region}",
        "assumeRoleArn": "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/publishing-${AWS::AccountId}",
    }
    files = {
        name: {
            "source": {"path": path, "packaging": "file"},
            "destinations": {"here": {**destination, "objectKey": key}},
        }
        for name, path, key in (("a", "large.zip", KEY), ("b", "small.json", "small.json"))
    }
    # As an app without a bootstrapped account has it.
    files["c"] = {
        "source": files["a"]["source"],
        "destinations": {"here": {"bucketName": BUCKET, "objectKey": "other"}},
    }
    (found.assembly / "Stack.assets.json").write_text(json.dumps({"version": "54.0.0", "files": files}))
    return found


def document(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_a_large_asset_is_published_by_the_role_and_once(deploy: OfflineDeploy, client: Clients) -> None:
    s3 = client("s3")
    deploy._publish_large_assets()  # nothing is there to publish to
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    trust = {
        "Effect": "Allow",
        "Principal": {"AWS": deploy.environment["CDK_DEFAULT_ACCOUNT"]},
        "Action": "sts:AssumeRole",
    }
    rights = {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:PutObject"], "Resource": "*"}
    client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=document(trust))
    client("iam").put_role_policy(RoleName=ROLE, PolicyName="publishing", PolicyDocument=document(rights))

    deploy._publish_large_assets()
    deploy._publish_large_assets()

    assert s3.get_object(Bucket=BUCKET, Key=KEY)["Body"].read() == CONTENT
    assert [each["Key"] for each in s3.list_object_versions(Bucket=BUCKET)["Versions"]] == [KEY]


def test_what_cannot_be_published_early_is_not_tried_again(
    deploy: OfflineDeploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    session = {"AccessKeyId": "a", "SecretAccessKey": "s", "SessionToken": "t"}

    class Stand:
        def assume_role(self, **_: Any) -> dict[str, Any]:
            return {"Credentials": session}

        def list_objects_v2(self, **_: Any) -> dict[str, Any]:
            return {"KeyCount": 1}

    def client(_service: str, **arguments: Any) -> Stand:
        made.append(arguments)
        return Stand()

    monkeypatch.setattr("boto3.client", client)
    deploy._publish_large_assets()

    # Its threads would keep an interrupted process from ending.
    assert [each["config"].retries for each in made if "config" in each] == [{"total_max_attempts": 1}]
