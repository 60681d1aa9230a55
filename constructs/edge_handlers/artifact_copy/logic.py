"""Copies a build artifact from the deployment's asset bucket to its content-addressed key and verifies what arrived.

Permissions:
    s3:GetObject            source bucket, the asset's key
    s3:GetObject            destination bucket, `artifacts/*` and `sources/*` (what arrived is read back)
    s3:PutObject, s3:DeleteObject, s3:DeleteObjectVersion
                            destination bucket, `artifacts/*` and `sources/*` (a wrong copy is taken away again)
    s3:ListBucket           destination bucket (without it a missing key answers 403 in place of 404)
    kms:Decrypt, kms:GenerateDataKey
                            the key of the destination bucket; kms:Decrypt on the source bucket's key, if it has one

Deletion keeps the object, because a device that is offline may still have to fetch it; the bucket's sweep empties
the bucket when the stack is destroyed.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from edge_handlers.custom_resource import Properties
from edge_handlers.s3_location import S3Location
from edge_handlers.service_client import error_code, explaining

CHUNK_BYTES = 1 << 20


class DigestError(ValueError):
    """The bytes that arrived are not the bytes that were announced."""


@dataclass(frozen=True)
class ArtifactCopy:
    """What to copy where.

    Args:
        source: The asset that the CDK uploaded.
        destination: The content-addressed place.
        sha256: 64 lower-case hexadecimal digits: the digest of the content.
    """

    source: S3Location
    destination: S3Location
    sha256: str

    @classmethod
    def of(cls, properties: Properties) -> "ArtifactCopy":
        """Read SourceBucket, SourceKey, DestinationBucket, DestinationKey and Sha256.

        Raises:
            ValueError: One is missing, or Sha256 is not a digest.
        """
        sha256 = properties.text("Sha256")
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise ValueError(f"{properties.where}.Sha256 must be 64 lower-case hexadecimal digits, got {sha256!r}")
        return cls(
            S3Location(properties.text("SourceBucket"), properties.text("SourceKey")),
            S3Location(properties.text("DestinationBucket"), properties.text("DestinationKey")),
            sha256,
        )


def place(copy: ArtifactCopy, s3: Any) -> dict[str, Any]:
    """Bring the artifact to its key; nothing is written where it lies already.

    Args:
        copy: What to copy where.
        s3: A boto3 S3 client.

    Returns:
        The answer to the Provider framework: PhysicalResourceId (the S3 URI), Data Uri and Key.

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
    try:
        with explaining(f"read {place}"):
            body = s3.get_object(Bucket=place.bucket, Key=place.key)["Body"]
    except RuntimeError as exc:
        if isinstance(exc.__cause__, ClientError) and error_code(exc.__cause__) in ("NoSuchKey", "404"):
            return None
        raise
    digest = hashlib.sha256()
    with body:
        while chunk := body.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _remove(place: S3Location, version: str | None, s3: Any) -> None:
    with explaining(f"remove the wrong copy {place}"):
        if version:
            s3.delete_object(Bucket=place.bucket, Key=place.key, VersionId=version)
        else:
            s3.delete_object(Bucket=place.bucket, Key=place.key)
