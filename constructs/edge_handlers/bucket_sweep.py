"""Custom resource: empties a bucket when its stack is destroyed: objects, old versions and delete markers.

Removing the sweep from a stack deletes the resource, and so would empty a bucket that was just switched to "retain".
RequiredTag guards against that: name a tag that only a bucket to be destroyed carries (CloudFormation updates the
tags before it deletes resources), and the sweep leaves a bucket without it alone.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, RequestType, parse
from edge_handlers.service_client import Deadline, client, explaining, ignoring

LOG = logging.getLogger(__name__)
PAGE = 1000  # DeleteObjects takes no more keys in one call
PASSES = 10  # log deliveries and refused keys come late; each pass starts from a fresh listing
PAUSE_S = 1.0
TRANSIENT = {"SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"}


class SweepError(RuntimeError):
    """The bucket still holds objects."""


@dataclass(frozen=True)
class BucketSweep(Contract):
    """The bucket to empty.

    Args:
        bucket: Its name.
        required_tag: Key of a tag that the bucket must carry with the value "true"; None empties it in any case.
    """

    TYPE = "Custom::BucketSweep"

    bucket: Annotated[str, Key("BucketName")]
    required_tag: Annotated[str | None, Key("RequiredTag")] = None

    @property
    def physical_id(self) -> str:
        """The same for the life of the bucket."""
        return f"sweep-{self.bucket}"


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of CloudFormation: Create and Update only name the resource, Delete empties it."""
    request = parse(event)
    sweep = BucketSweep.of(request.properties)
    if request.type is RequestType.DELETE:
        empty(sweep, client("s3"), Deadline.of(context))
        return {"PhysicalResourceId": request.known_id}
    return {"PhysicalResourceId": sweep.physical_id}


def empty(sweep: BucketSweep, s3: Any, deadline: Deadline) -> int:
    """Delete everything in the bucket; a bucket that is gone is empty.

    Args:
        sweep: The bucket.
        s3: A boto3 S3 client.
        deadline: Checked before each page of 1,000.

    Returns:
        How many versions and delete markers were deleted.

    Raises:
        SweepError: S3 refuses a key for good, or objects keep coming after `PASSES` passes.
        AwsCallError: S3 refused a call.
        DeadlineError: The time is over; a second run goes on.
    """
    deleted = 0
    with explaining(f"empty bucket {sweep.bucket}"), ignoring("NoSuchBucket"):
        if not _is_marked(sweep, s3):
            LOG.warning("bucket %s lacks the tag %s: kept as it is", sweep.bucket, sweep.required_tag)
            return 0
        refused = 0
        for number in range(PASSES):
            # The second pass only looks whether something came meanwhile: what came, or was refused, takes its time.
            if number > 1 or refused:
                time.sleep(PAUSE_S * number)
            found = refused = 0
            for page in _pages(sweep.bucket, s3):
                deadline.check(f"empty bucket {sweep.bucket} ({deleted} objects deleted)")
                errors = _delete(sweep.bucket, page, s3)
                found += len(page)
                refused += len(errors)
                deleted += len(page) - len(errors)
            if not found:
                return deleted
            LOG.info("bucket %s: %d deleted, %d refused in pass %d", sweep.bucket, found - refused, refused, number + 1)
        raise SweepError(
            f"bucket {sweep.bucket} still holds objects after {PASSES} passes ({deleted} deleted); "
            "stop what writes to it and run the same command again"
        )
    return deleted


def _is_marked(sweep: BucketSweep, s3: Any) -> bool:
    if sweep.required_tag is None:
        return True
    with ignoring("NoSuchTagSet"):
        tags = s3.get_bucket_tagging(Bucket=sweep.bucket)["TagSet"]
        return any(tag["Key"] == sweep.required_tag and tag["Value"] == "true" for tag in tags)
    return False


def _pages(bucket: str, s3: Any) -> Iterator[list[dict[str, str]]]:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, PaginationConfig={"PageSize": PAGE}):
        entries = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if entries:
            yield [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]


def _delete(bucket: str, objects: list[dict[str, str]], s3: Any) -> list[dict[str, str]]:
    """Delete one page; what S3 refuses comes back in an answer that counts as a success."""
    answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    errors: list[dict[str, str]] = answer.get("Errors", [])
    for error in errors:
        if error.get("Code") not in TRANSIENT:
            raise SweepError(
                f"cannot delete s3://{bucket}/{error.get('Key')} version {error.get('VersionId')}: "
                f"{error.get('Code')} {error.get('Message')}"
            )
    return errors


handler = answering(on_event)
