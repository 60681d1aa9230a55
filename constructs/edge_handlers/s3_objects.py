"""Objects in S3: where they lie, what their digest is, and a store that writes each once."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_handlers.custom_resource import Key, Properties
from edge_handlers.service_client import describe, explaining

CHUNK_BYTES = 1 << 20
PART_BYTES = 16 << 20
DIGEST = "sha256"  # user metadata of what is written here
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class S3Location:
    """A bucket and a key; as text `s3://bucket/key`."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> "S3Location":
        """Read `s3://bucket/key`.

        Raises:
            ValueError: The text has another form.
        """
        match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(.+)", uri)
        if match is None:
            raise ValueError(f"an S3 location must look like s3://bucket/key, got {uri!r}")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def sha256_of(path: Path) -> str:
    """Return a file's digest, 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(name: str) -> Key:
    """A property that is a SHA-256."""
    return Key(name, _digest)


def uri(name: str, end: str = "") -> Key:
    """A property that is an object's URI, without what it may end with; a text, because synth knows a token only."""
    return Key(name, lambda properties, name: str(S3Location.parse(properties.text(name).rstrip(end))))


def check_own(where: str, uri: str, *places: str) -> None:
    """Refuse an object that is not the request's own: one function serves all models of a stage.

    Args:
        where: Names the property in the error.
        uri: The object's.
        places: Regular expressions, one of which its key must match as a whole.

    Raises:
        ValueError: It lies elsewhere.
    """
    if not any(re.fullmatch(place, S3Location.parse(uri).key) for place in places):
        wanted = " or ".join(place.replace("\\", "") for place in places)
        raise ValueError(f"{where} must be an object of this model, with the key {wanted}, got {uri!r}")


def source_of(model: str) -> str:
    """Where a model's sources lie, for `check_own`."""
    return rf"sources/{re.escape(model)}/.+"


def compiled_of(job: str) -> str:
    """Where what was compiled for a model lies, and what Edge Manager packaged of that, for `check_own`.

    Args:
        job: What its jobs' names start with.
    """
    return rf"compiled/(edge-manager/)?{re.escape(job)}-[0-9a-f]{{12}}(-[0-9]+)?/.+"


def check_job(where: str, job: str, model: str) -> None:
    """Refuse a job's name that is another model's.

    Raises:
        ValueError: It does not end with the model's name.
    """
    if not job.endswith(f"-{model}"):
        raise ValueError(f"{where} must end with the model's name, -{model}, got {job!r}")


def _digest(properties: Properties, name: str) -> str:
    value = properties.text(name)
    if not _SHA256.fullmatch(value):
        raise ValueError(f"{properties.where}.{name} must be 64 lower-case hexadecimal digits, got {value!r}")
    return value


class ContentError(ValueError):
    """An object of the same key has another content."""


class ObjectStore:
    """A bucket of objects that never change.

    Args:
        s3: A boto3 S3 client.
        bucket: Its name.
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
                from boto3.s3.transfer import TransferConfig

                # One part at a time: the parts' buffers must fit beside the model in a small function.
                config = TransferConfig(
                    multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, use_threads=False
                )
                extra = {**self._encryption, "Metadata": {DIGEST: sha256}, "ContentType": content_type}
                with path.open("rb") as file:
                    self._s3.upload_fileobj(file, self._bucket, key, ExtraArgs=extra, Config=config)
        return place

    def put_once(self, key: str, path: Path, sha256: str) -> S3Location:
        """Upload a file to a key that a device may have been told: what lies there already must be the same.

        Raises:
            ContentError: It is another content.
            AwsCallError: S3 refused a call.
        """
        place = S3Location(self._bucket, key)
        with explaining(f"write {place}"):
            found = describe(self._s3.head_object, Bucket=place.bucket, Key=place.key)
        there = (found or {}).get("Metadata", {}).get(DIGEST, sha256)
        if there != sha256:
            raise ContentError(
                f"{place} must have the content {sha256}, got {there}: a version never changes; raise revision in the "
                "stage's file"
            )
        return self.put_file(key, path, sha256)

    def get_bytes(self, key: str) -> bytes | None:
        """Read a small object; None where there is none.

        Raises:
            AwsCallError: S3 refused the call.
        """
        with explaining(f"read {S3Location(self._bucket, key)}"):
            found = describe(self._s3.get_object, Bucket=self._bucket, Key=key)
            if found is None:
                return None
            body = found["Body"]
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
        found = describe(self._s3.head_object, Bucket=place.bucket, Key=place.key)
        if found is None:
            return False
        return bool(found["ContentLength"] == size and found.get("Metadata", {}).get(DIGEST) == sha256)
