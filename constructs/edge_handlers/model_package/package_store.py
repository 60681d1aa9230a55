"""Writes the package to its content-addressed keys, each once."""

import hashlib
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from edge_handlers.s3_location import S3Location
from edge_handlers.service_client import error_code, explaining

PART_BYTES = 16 << 20
DIGEST = "sha256"  # user metadata of what is written here


class PackageStore:
    """The package folder of the artifact bucket.

    Args:
        s3: A boto3 S3 client.
        bucket: The artifact bucket.
        kms_key_id: Encrypts what is written; None for the bucket's default.
    """

    def __init__(self, s3: Any, bucket: str, kms_key_id: str | None) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key_id} if kms_key_id else {}

    def put_file(self, key: str, path: Path, sha256: str, content_type: str = "application/zip") -> S3Location:
        """Upload a file in parts, unless it lies there already.

        Raises:
            AwsCallError: S3 refused a call.
        """
        place = S3Location(self._bucket, key)
        with explaining(f"write {place}"):
            if not self._has(place, path.stat().st_size, sha256):
                # One part at a time: the parts' buffers must fit beside the model in a small function.
                config = TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
                )
                extra = {**self._encryption, "Metadata": {DIGEST: sha256}, "ContentType": content_type}
                with path.open("rb") as file:
                    self._s3.upload_fileobj(file, self._bucket, key, ExtraArgs=extra, Config=config)
        return place

    def get_bytes(self, key: str) -> bytes | None:
        """Read a small object; None where there is none.

        Raises:
            AwsCallError: S3 refused the call.
        """
        with explaining(f"read {S3Location(self._bucket, key)}"):
            try:
                body = self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]
            except ClientError as exc:
                if error_code(exc) in ("404", "NoSuchKey", "NotFound"):
                    return None
                raise
            with body:
                content: bytes = body.read()
        return content

    def put_bytes(self, key: str, content: bytes, content_type: str = "application/json") -> S3Location:
        """Write a small object, unless it lies there already.

        Raises:
            AwsCallError: S3 refused a call.
        """
        place = S3Location(self._bucket, key)
        sha256 = hashlib.sha256(content).hexdigest()
        with explaining(f"write {place}"):
            if not self._has(place, len(content), sha256):
                self._s3.put_object(
                    Bucket=self._bucket,
                    Key=key,
                    Body=content,
                    ContentType=content_type,
                    Metadata={DIGEST: sha256},
                    **self._encryption,
                )
        return place

    def _has(self, place: S3Location, size: int, sha256: str) -> bool:
        """Whether the object is there as it was written here; anything else at the key is written over."""
        try:
            found = self._s3.head_object(Bucket=place.bucket, Key=place.key)
        except ClientError as exc:
            if error_code(exc) in ("404", "NoSuchKey", "NotFound"):
                return False
            raise
        return bool(found["ContentLength"] == size and found.get("Metadata", {}).get(DIGEST) == sha256)
