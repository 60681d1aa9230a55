"""Digests of a recipe's artifacts, computed from the bytes in the twin's S3 as CreateComponentVersion does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any

from ministack.services import s3

from twin.cloud.greengrass.recipe import Recipe, artifacts
from twin.cloud.greengrass.service_error import InvalidRequestError, Mistake

ARTIFACTS_LIMIT_BYTES = 2 * 1024**3
"""Quota: all artifacts of one component version together (AWS general reference, Greengrass V2 quotas)."""

_CHUNK_BYTES = 1 << 20


async def add_digests(recipe: Recipe) -> None:
    """Set `Digest` (base64 SHA-256) and `Algorithm` of every S3 artifact of a canonical recipe.

    The objects are read in process and hashed in a worker thread, 1 MiB at a time where they lie on disk: the event
    loop goes on serving, and provisioners may call this.

    Raises:
        InvalidRequestError: If an object does not exist, or all together are larger than 2 GiB.
    """
    mistakes: list[Mistake] = []
    total_bytes = 0
    for artifact in artifacts(recipe):
        uri = artifact["Uri"]
        if not uri.startswith("s3://"):
            continue
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        stored = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key)
        if stored is None:
            mistakes.append((uri, "must exist in S3 before the component version is created: upload it first"))
            continue
        total_bytes += int(stored.get("size") or 0)
        if total_bytes > ARTIFACTS_LIMIT_BYTES:
            mistakes.append((uri, f"must keep all artifacts within {ARTIFACTS_LIMIT_BYTES} bytes, got {total_bytes}"))
            break
        artifact["Digest"] = await asyncio.to_thread(_digest, bucket, key, stored)
        artifact["Algorithm"] = "SHA-256"
    if mistakes:
        raise InvalidRequestError(mistakes)


def _digest(bucket: str, key: str, stored: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    path = s3._object_disk_path(bucket, key) if s3.S3_PERSIST else None
    if stored.get("body") is None and path is not None:
        with Path(path).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    else:
        digest.update(s3._read_body(bucket, key, stored))
    return base64.b64encode(digest.digest()).decode()
