"""S3 in memory: versions, delete markers, tags, and bodies that break half way."""

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import IncompleteReadError

from tests.handlers.fake_service import FakeService, refusal


@dataclass
class Stored:
    version: str
    content: bytes | None  # None: a delete marker
    metadata: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    written: datetime = field(default_factory=lambda: datetime.now(UTC))


class BrokenBody(io.BytesIO):
    """A body whose connection ends in the middle."""

    WHOLE = 40

    def read(self, size: int | None = -1) -> bytes:
        left = self.WHOLE - self.tell()
        if left <= 0:
            raise IncompleteReadError(actual_bytes=self.WHOLE, expected_bytes=len(self.getvalue()))
        return super().read(left if size is None or size < 0 else min(size, left))


class FakeS3(FakeService):
    """Buckets of versioned keys."""

    PAGES = {"list_object_versions": ("Versions", "DeleteMarkers")}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.buckets: dict[str, dict[str, list[Stored]]] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.undeletable: dict[str, str] = {}  # key → code of the error in DeleteObjects' answer
        self.corrupts_copies = False
        self.broken_bodies = 0
        self._versions = 0

    def put(self, bucket: str, key: str, content: bytes | None, **metadata: str) -> str:
        """Store a version without recording a call."""
        self._versions += 1
        stored = Stored(str(self._versions), content, metadata)
        self.buckets.setdefault(bucket, {}).setdefault(key, []).append(stored)
        return stored.version

    def content(self, bucket: str, key: str) -> bytes | None:
        """Content of the newest version; None for no object."""
        versions = self.buckets.get(bucket, {}).get(key, [])
        return versions[-1].content if versions else None

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_object", Bucket=Bucket, Key=Key)
        content = self.content(Bucket, Key)
        if content is None:
            raise refusal("NoSuchKey", "GetObject")
        if self.broken_bodies:
            self.broken_bodies -= 1
            return {"Body": BrokenBody(content)}
        return {"Body": io.BytesIO(content), "LastModified": self.buckets[Bucket][Key][-1].written}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        self.record("head_object", Bucket=Bucket, Key=Key)
        if self.content(Bucket, Key) is None:
            raise refusal("404", "HeadObject", "Not Found")
        newest = self.buckets[Bucket][Key][-1]
        return {"ContentLength": len(newest.content or b""), "Metadata": newest.metadata}

    def copy_object(self, Bucket: str, Key: str, CopySource: dict[str, str]) -> dict[str, Any]:  # noqa: N803
        self.record("copy_object", Bucket=Bucket, Key=Key, CopySource=CopySource)
        content = self.content(CopySource["Bucket"], CopySource["Key"])
        if content is None:
            raise refusal("NoSuchKey", "CopyObject", "The specified key does not exist.")
        return {"VersionId": self.put(Bucket, Key, b"damaged" if self.corrupts_copies else content)}

    def put_object(self, Bucket: str, Key: str, Body: bytes, **arguments: Any) -> dict[str, Any]:  # noqa: N803
        self.record("put_object", Bucket=Bucket, Key=Key, **arguments)
        self.put(Bucket, Key, Body, **arguments.get("Metadata", {}))
        return {}

    def upload_fileobj(self, Fileobj: Any, Bucket: str, Key: str, ExtraArgs: dict[str, Any], Config: Any) -> None:  # noqa: N803
        self.record("upload_fileobj", Bucket=Bucket, Key=Key, **ExtraArgs)
        self.put(Bucket, Key, Fileobj.read(), **ExtraArgs.get("Metadata", {}))

    def download_fileobj(self, Bucket: str, Key: str, Fileobj: Any) -> None:  # noqa: N803
        self.record("download_fileobj", Bucket=Bucket, Key=Key)
        content = self.content(Bucket, Key)
        if content is None:
            raise refusal("404", "HeadObject", "Not Found")
        Fileobj.write(content)

    def delete_object(self, Bucket: str, Key: str, VersionId: str | None = None) -> dict[str, Any]:  # noqa: N803
        self.record("delete_object", Bucket=Bucket, Key=Key, VersionId=VersionId)
        if VersionId is None:
            self.put(Bucket, Key, None)  # as in a versioned bucket: what was there stays behind a marker
        else:
            self._drop(Bucket, Key, VersionId)
        return {}

    def get_bucket_tagging(self, Bucket: str) -> dict[str, Any]:  # noqa: N803
        self.record("get_bucket_tagging", Bucket=Bucket)
        self._existing(Bucket, "GetBucketTagging")
        if not self.tags.get(Bucket):
            raise refusal("NoSuchTagSet", "GetBucketTagging")
        return {"TagSet": [{"Key": key, "Value": value} for key, value in self.tags[Bucket].items()]}

    def list_object_versions(self, Bucket: str) -> dict[str, Any]:  # noqa: N803
        self.record("list_object_versions", Bucket=Bucket)
        entries = [(key, v) for key, versions in self._existing(Bucket, "ListObjectVersions").items() for v in versions]
        return {
            "Versions": [{"Key": k, "VersionId": v.version} for k, v in entries if v.content is not None],
            "DeleteMarkers": [{"Key": k, "VersionId": v.version} for k, v in entries if v.content is None],
        }

    def delete_objects(self, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803
        self.record("delete_objects", Bucket=Bucket, Delete=Delete)
        errors = []
        for entry in Delete["Objects"]:
            code = self.undeletable.get(entry["Key"])
            if code:
                errors.append({**entry, "Code": code, "Message": "refused"})
            else:
                self._drop(Bucket, entry["Key"], entry["VersionId"])
        return {"Errors": errors} if errors else {}

    def _existing(self, bucket: str, operation: str) -> dict[str, list[Stored]]:
        if bucket not in self.buckets:
            raise refusal("NoSuchBucket", operation)
        return self.buckets[bucket]

    def _drop(self, bucket: str, key: str, version: str) -> None:
        versions = self.buckets[bucket].get(key, [])
        kept = [stored for stored in versions if stored.version != version]
        if kept:
            self.buckets[bucket][key] = kept
        else:
            self.buckets[bucket].pop(key, None)
