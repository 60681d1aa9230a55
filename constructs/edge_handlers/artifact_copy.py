"""Custom resource: a build artifact, copied from the CDK's assets to its content-addressed key and verified there.

Deletion keeps the object, because a device that is offline may still have to fetch it; the bucket's sweep empties
the bucket when the stack is destroyed.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, RequestType, parse
from edge_handlers.s3_objects import CHUNK_BYTES, S3Location, digest
from edge_handlers.service_client import client, describe, explaining


class DigestError(ValueError):
    """The bytes that arrived are not the bytes that were announced."""


@dataclass(frozen=True)
class ArtifactCopy(Contract):
    """What to copy where.

    Args:
        source_bucket: The bucket of the CDK's assets.
        source_key: The asset in it.
        destination_bucket: The artifact bucket.
        destination_key: The content-addressed place.
        sha256: 64 lower-case hexadecimal digits: the digest of the content.
    """

    TYPE = "Custom::ArtifactCopy"

    source_bucket: Annotated[str, Key("SourceBucket")]
    source_key: Annotated[str, Key("SourceKey")]
    destination_bucket: Annotated[str, Key("DestinationBucket")]
    destination_key: Annotated[str, Key("DestinationKey")]
    sha256: Annotated[str, digest("Sha256")]

    @property
    def source(self) -> S3Location:
        """The asset."""
        return S3Location(self.source_bucket, self.source_key)

    @property
    def destination(self) -> S3Location:
        """The content-addressed place."""
        return S3Location(self.destination_bucket, self.destination_key)


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 (Lambda's signature)
    """Answer one event of CloudFormation: Create and Update place the artifact, Delete keeps it."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return place(ArtifactCopy.of(request.properties), client("s3"))


def place(copy: ArtifactCopy, s3: Any) -> dict[str, Any]:
    """Bring the artifact to its key; nothing is written where it lies already.

    Args:
        copy: What to copy where.
        s3: A boto3 S3 client.

    Returns:
        What `answering` sends: PhysicalResourceId (the S3 URI), Data Uri and Key.

    Raises:
        DigestError: The copy has another digest; it has been removed.
        AwsCallError: S3 refused a call.
    """
    target = copy.destination
    if _digest(target, s3) != copy.sha256:
        with explaining(f"copy {copy.source} to {target}"):
            written = s3.copy_object(
                Bucket=target.bucket,
                Key=target.key,
                CopySource={"Bucket": copy.source.bucket, "Key": copy.source.key},
            )
        arrived = _digest(target, s3)
        if arrived != copy.sha256:
            _remove(target, written.get("VersionId"), s3)
            raise DigestError(
                f"sha-256 of {copy.source} must be {copy.sha256}, got {arrived}; the copy was removed, "
                "synthesise and publish the assets again"
            )
    return {"PhysicalResourceId": str(target), "Data": {"Uri": str(target), "Key": target.key}}


def _digest(place: S3Location, s3: Any) -> str | None:
    """SHA-256 of an object, streamed; None where there is none."""
    with explaining(f"read {place}"):
        found = describe(s3.get_object, Bucket=place.bucket, Key=place.key)
    if found is None:
        return None
    total = hashlib.sha256()
    body = found["Body"]
    with body:
        while chunk := body.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def _remove(place: S3Location, version: str | None, s3: Any) -> None:
    with explaining(f"remove the wrong copy {place}"):
        if version:
            s3.delete_object(Bucket=place.bucket, Key=place.key, VersionId=version)
        else:
            s3.delete_object(Bucket=place.bucket, Key=place.key)


handler = answering(on_event)
