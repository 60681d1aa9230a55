"""One compilation, from S3 to S3: an order as JSON on stdin, the result as JSON on stdout. Runs in its own process."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.cloud.sagemaker.optimiser import optimise
from twin.cloud.sagemaker.source_archive import LIMIT_BYTES, InputError, extract_model, pack_model

_S3 = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})


class OutputError(Exception):
    """The compiled model cannot be written where the job wants it."""


def compile_model(order: dict[str, Any], s3: Any, folder: Path) -> dict[str, str]:
    """Fetch, optimise, store.

    Args:
        order: `input` and `output` as in CreateCompilationJob.
        s3: An S3 client with the credentials of the job's role.
        folder: For temporary files; empty.

    Returns:
        `artifact` (the S3 URI of the archive that was written) and `sha256` (hex, of that archive).

    Raises:
        InputError: If the source or its description is at fault.
        OutputError: If the result cannot be stored.
    """
    source, output = order["input"], order["output"]
    if source["Framework"] != "ONNX":
        raise InputError(f"Framework must be ONNX on the twin, got {source['Framework']}: export the model to ONNX")
    archive = folder / "source.tar.gz"
    name = _fetch(s3, source["S3Uri"], archive)
    unpacked = folder / "source"
    unpacked.mkdir()
    compiled = folder / "model.onnx"
    platform = output.get("TargetPlatform", {})
    optimise(extract_model(archive, unpacked), compiled, source.get("DataInputConfig", ""), platform.get("Arch"))
    packed = pack_model(compiled.read_bytes())
    target = output.get("TargetDevice") or "_".join(
        platform[part] for part in ("Os", "Arch", "Accelerator") if part in platform
    )
    uri = f"{output['S3OutputLocation'].rstrip('/')}/{name}-{target}.tar.gz"
    _store(s3, uri, packed, output.get("KmsKeyId"))
    return {"artifact": uri, "sha256": hashlib.sha256(packed).hexdigest()}


def _fetch(s3: Any, uri: str, archive: Path) -> str:
    """Download the source archive.

    Returns:
        Its file name without `.tar.gz`.
    """
    bucket, key = _bucket_and_key(uri)
    if not uri.startswith("s3://") or not key.endswith(".tar.gz"):
        raise InputError(f"S3Uri must begin with s3:// and end in .tar.gz, got {uri}")
    try:
        size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        if size > LIMIT_BYTES:
            raise InputError(f"{uri} must be at most {LIMIT_BYTES} bytes, got {size}")
        s3.download_file(bucket, key, str(archive))
    except (ClientError, BotoCoreError) as exc:
        raise InputError(f"{uri} must be readable with the job's role: {exc}") from exc
    return key.rsplit("/", 1)[-1].removesuffix(".tar.gz")


def _store(s3: Any, uri: str, content: bytes, kms_key: str | None) -> None:
    bucket, key = _bucket_and_key(uri)
    encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=content, **encryption)
    except (ClientError, BotoCoreError) as exc:
        raise OutputError(f"{uri} must be writable with the job's role: {exc}") from exc


def _bucket_and_key(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def main() -> None:
    """Run the order; a failure of the customer's making is a result, anything else a traceback and exit code 1."""
    # Native code may print to stdout; the result must be alone there.
    result_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    order = json.load(sys.stdin)
    s3 = boto3.client("s3", config=_S3, **order["client"])
    try:
        with tempfile.TemporaryDirectory(prefix="compilation-") as folder:
            result = compile_model(order, s3, Path(folder))
    except InputError as exc:
        result = {"failure": f"ClientError: InputConfiguration: {exc}"}
    except OutputError as exc:
        result = {"failure": f"ClientError: OutputConfiguration: {exc}"}
    with result_stream:
        json.dump(result, result_stream)


if __name__ == "__main__":
    main()
