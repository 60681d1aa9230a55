"""The form in which Triton serves a model: a folder a model, a folder a version."""

import gzip
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from edge_handlers.model_package.archive import fetch
from edge_handlers.model_package.package_store import PackageStore
from edge_handlers.model_package.package_zip import sha256
from edge_handlers.model_verification.verification import Verification, VerificationError

MODEL = "model"


def store_served_model(verification: Verification, s3: Any) -> None:
    """Write the model in the server's form, unless it lies there already.

    Raises:
        VerificationError: The archive does not hold exactly one ONNX model.
        ArchiveError: It is damaged.
        AwsCallError: S3 refused a call.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [file for file in fetch(verification.model, folder / "in", s3) if file.endswith(".onnx")]
        if len(models) != 1:
            raise VerificationError(
                f"verify: {verification.model} must hold exactly one .onnx file, got {models or 'none'}: "
                "only ONNX models can be verified on an endpoint"
            )
        archive = folder / "model.tar.gz"
        with (
            archive.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=0, mtime=0) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            entry = tarfile.TarInfo(f"{MODEL}/1/model.onnx")
            entry.size = (folder / "in" / models[0]).stat().st_size
            with (folder / "in" / models[0]).open("rb") as content:
                tar.addfile(entry, content)
        place = verification.archive
        store = PackageStore(s3, place.bucket, verification.kms_key_id)
        store.put_file(place.key, archive, sha256(archive), "application/gzip")
