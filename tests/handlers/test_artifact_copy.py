import hashlib
from typing import Any

import pytest

from edge_handlers.artifact_copy import DigestError, on_event
from edge_handlers.service_client import AwsCallError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_s3 import FakeS3

CONTENT = b"an asset" * 300_000  # more than one chunk of the digest's stream
SHA = hashlib.sha256(CONTENT).hexdigest()
KEY = f"artifacts/{SHA}/inference.zip"
URI = f"s3://artifacts-dev/{KEY}"
PLACED = {"Sha256": SHA, "DestinationKey": KEY}


def run(request: dict[str, Any]) -> dict[str, Any]:
    return on_event(request, Context())


@pytest.fixture
def asset(s3: FakeS3) -> FakeS3:
    s3.put("cdk-assets", "0f1e.zip", CONTENT)
    s3.buckets["artifacts-dev"] = {}
    return s3


def test_create_copies_the_asset_and_tells_where_it_is(asset: FakeS3) -> None:
    answer = run(event.create("artifact_copy", **PLACED))

    assert answer == {"PhysicalResourceId": URI, "Data": {"Uri": URI, "Key": KEY}}
    assert asset.content("artifacts-dev", KEY) == CONTENT


def test_a_duplicate_event_writes_nothing_again(asset: FakeS3) -> None:
    first = run(event.create("artifact_copy", **PLACED))

    assert run(event.create("artifact_copy", **PLACED)) == first
    assert len(asset.called("copy_object")) == 1


def test_an_update_in_place_repairs_what_was_changed_at_the_key(asset: FakeS3) -> None:
    run(event.create("artifact_copy", **PLACED))
    asset.put("artifacts-dev", KEY, b"tampered with")

    answer = run(event.update("artifact_copy", URI, old=PLACED, **PLACED))

    assert answer["PhysicalResourceId"] == URI
    assert asset.content("artifacts-dev", KEY) == CONTENT


def test_other_content_is_a_replacement_and_the_old_key_stays(asset: FakeS3) -> None:
    run(event.create("artifact_copy", **PLACED))
    sha = hashlib.sha256(b"newer").hexdigest()
    key = f"artifacts/{sha}/inference.zip"
    asset.put("cdk-assets", "newer.zip", b"newer")

    changed = {"SourceKey": "newer.zip", "Sha256": sha, "DestinationKey": key}
    answer = run(event.update("artifact_copy", URI, old=PLACED, **changed))
    run(event.delete("artifact_copy", URI, **PLACED))

    assert answer["PhysicalResourceId"] == f"s3://artifacts-dev/{key}"
    assert asset.content("artifacts-dev", KEY) == CONTENT, "an offline device may still fetch it"


def test_a_rollback_finds_the_former_artifact_in_place(asset: FakeS3) -> None:
    run(event.create("artifact_copy", **PLACED))
    newer = {"SourceKey": "newer.zip", "Sha256": "0" * 64, "DestinationKey": "artifacts/0/inference.zip"}

    answer = run(event.update("artifact_copy", "s3://artifacts-dev/artifacts/0/inference.zip", old=newer, **PLACED))

    assert answer["PhysicalResourceId"] == URI
    assert len(asset.called("copy_object")) == 1


def test_delete_keeps_the_artifact_and_can_come_twice_with_any_properties(asset: FakeS3) -> None:
    run(event.create("artifact_copy", **PLACED))

    for _ in range(2):
        answer = run(event.delete("artifact_copy", URI, Sha256=None, SourceKey=None))
        assert answer == {"PhysicalResourceId": URI}

    assert asset.content("artifacts-dev", KEY) == CONTENT


def test_old_properties_are_not_needed(asset: FakeS3) -> None:
    old = {"SourceBucket": None, "Sha256": None}

    assert run(event.update("artifact_copy", URI, old=old, **PLACED))["PhysicalResourceId"] == URI


def test_a_copy_with_another_digest_is_removed_and_both_digests_are_named(asset: FakeS3) -> None:
    asset.corrupts_copies = True

    with pytest.raises(DigestError) as error:
        run(event.create("artifact_copy", **PLACED))

    assert f"sha-256 of s3://cdk-assets/0f1e.zip must be {SHA}, got" in str(error.value)
    assert asset.content("artifacts-dev", KEY) is None


def test_a_missing_asset_is_named(asset: FakeS3) -> None:
    with pytest.raises(AwsCallError, match=rf"cannot copy s3://cdk-assets/gone.zip to {URI}: .*NoSuchKey"):
        run(event.create("artifact_copy", SourceKey="gone.zip", **PLACED))


def test_access_denied_names_the_object(asset: FakeS3) -> None:
    asset.refuse("copy_object", "AccessDenied")

    with pytest.raises(AwsCallError, match=r"cannot copy s3://cdk-assets/0f1e.zip .*AccessDenied"):
        run(event.create("artifact_copy", **PLACED))


def test_access_denied_to_the_destination_is_not_taken_for_absence(asset: FakeS3) -> None:
    asset.refuse("get_object", "AccessDenied")

    with pytest.raises(AwsCallError, match=rf"cannot read {URI}: .*AccessDenied"):
        run(event.create("artifact_copy", **PLACED))

    assert not asset.called("copy_object")


@pytest.mark.parametrize("digest", ["ABC", "G" * 64, SHA.upper()])
def test_refuses_what_is_no_digest(asset: FakeS3, digest: str) -> None:
    with pytest.raises(ValueError, match="Sha256 must be 64 lower-case hexadecimal digits"):
        run(event.create("artifact_copy", Sha256=digest))
