from typing import Any

import pytest

from edge_handlers.bucket_sweep import PASSES, SweepError, on_event
from edge_handlers.service_client import AwsCallError, DeadlineError
from tests.handlers import event
from tests.handlers.event import Context
from tests.handlers.fake_s3 import FakeS3

ID = "sweep-artifacts-dev"


def run(request: dict[str, Any], seconds: float = 300) -> dict[str, Any]:
    return on_event(request, Context(seconds))


@pytest.fixture
def bucket(s3: FakeS3) -> FakeS3:
    for number in range(5):
        s3.put("artifacts-dev", f"key-{number}", b"old")
        s3.put("artifacts-dev", f"key-{number}", b"new")
    s3.put("artifacts-dev", "key-0", None)
    return s3


def test_create_and_update_touch_nothing(bucket: FakeS3) -> None:
    assert run(event.create("bucket_sweep")) == {"PhysicalResourceId": ID}
    assert run(event.update("bucket_sweep", ID)) == {"PhysicalResourceId": ID}
    assert bucket.calls == []


def test_delete_takes_objects_versions_and_markers(bucket: FakeS3) -> None:
    assert run(event.delete("bucket_sweep", ID)) == {"PhysicalResourceId": ID}

    assert bucket.buckets["artifacts-dev"] == {}


def test_only_what_is_refused_or_comes_late_is_waited_for(bucket: FakeS3, pauses: list[float]) -> None:
    run(event.delete("bucket_sweep", ID))
    assert pauses == []

    def late() -> None:
        if len(bucket.called("list_object_versions")) < 8:
            bucket.put("artifacts-dev", "log", b"late")
            bucket.before("list_object_versions", late)

    bucket.put("artifacts-dev", "key", b"new")
    bucket.before("list_object_versions", late)
    run(event.delete("bucket_sweep", ID))

    assert bucket.buckets["artifacts-dev"] == {}
    assert pauses[:1] == [2.0]


def test_deletes_in_pages(bucket: FakeS3) -> None:
    run(event.delete("bucket_sweep", ID))

    assert [len(call["Delete"]["Objects"]) for call in bucket.called("delete_objects")] == [2, 2, 2, 2, 2, 1]


def test_delete_again_and_delete_without_a_bucket_succeed(bucket: FakeS3) -> None:
    run(event.delete("bucket_sweep", ID))
    assert run(event.delete("bucket_sweep", ID)) == {"PhysicalResourceId": ID}

    del bucket.buckets["artifacts-dev"]
    assert run(event.delete("bucket_sweep", ID)) == {"PhysicalResourceId": ID}


def test_a_replaced_bucket_is_emptied_and_its_successor_is_not(bucket: FakeS3) -> None:
    bucket.put("artifacts-new", "key", b"new")

    answer = run(event.update("bucket_sweep", ID, BucketName="artifacts-new"))
    run(event.delete("bucket_sweep", ID))

    assert answer == {"PhysicalResourceId": "sweep-artifacts-new"}
    assert bucket.buckets["artifacts-dev"] == {}
    assert bucket.content("artifacts-new", "key") == b"new"


def test_a_rollback_touches_nothing(bucket: FakeS3) -> None:
    answer = run(event.update("bucket_sweep", "sweep-artifacts-new", old={"BucketName": "artifacts-new"}))

    assert answer == {"PhysicalResourceId": ID}
    assert bucket.calls == []


def test_old_properties_are_not_needed(bucket: FakeS3) -> None:
    assert run(event.update("bucket_sweep", ID, old={"BucketName": None})) == {"PhysicalResourceId": ID}


def test_a_bucket_that_was_switched_to_retain_is_kept(bucket: FakeS3) -> None:
    guarded = {"RequiredTag": "edgewright:sweep"}

    for tags in ({}, {"edgewright:sweep": "false"}, {"other": "true"}):
        bucket.tags["artifacts-dev"] = tags
        run(event.delete("bucket_sweep", ID, **guarded))
        assert bucket.content("artifacts-dev", "key-1") == b"new"

    bucket.tags["artifacts-dev"] = {"edgewright:sweep": "true"}
    run(event.delete("bucket_sweep", ID, **guarded))
    assert bucket.buckets["artifacts-dev"] == {}


def test_a_key_that_is_refused_for_a_while_is_tried_again(bucket: FakeS3, pauses: list[float]) -> None:
    bucket.undeletable["key-3"] = "SlowDown"

    def recover() -> None:
        if len(bucket.called("list_object_versions")) == 2:
            bucket.undeletable.clear()
        bucket.before("list_object_versions", recover)

    bucket.before("list_object_versions", recover)
    run(event.delete("bucket_sweep", ID))

    assert bucket.buckets["artifacts-dev"] == {}
    assert pauses == [1.0, 2.0]


def test_a_key_that_is_refused_for_good_is_named(bucket: FakeS3) -> None:
    bucket.undeletable["key-3"] = "AccessDenied"

    with pytest.raises(SweepError, match=r"cannot delete s3://artifacts-dev/key-3 version .* AccessDenied"):
        run(event.delete("bucket_sweep", ID))


def test_keys_that_keep_being_refused_end_after_a_bounded_number_of_passes(bucket: FakeS3, pauses: list[float]) -> None:
    bucket.undeletable["key-3"] = "SlowDown"

    with pytest.raises(SweepError, match="still holds objects after 10 passes"):
        run(event.delete("bucket_sweep", ID))

    assert len(pauses) == PASSES - 1


def test_access_denied_names_the_bucket(bucket: FakeS3) -> None:
    bucket.refuse("list_object_versions", "AccessDenied")

    with pytest.raises(AwsCallError, match=r"cannot empty bucket artifacts-dev: .*AccessDenied"):
        run(event.delete("bucket_sweep", ID))


def test_stops_by_itself_before_the_function_is_stopped(bucket: FakeS3) -> None:
    with pytest.raises(DeadlineError, match=r"empty bucket artifacts-dev \(0 objects deleted\)"):
        run(event.delete("bucket_sweep", ID), seconds=1)

    assert not bucket.called("delete_objects")
