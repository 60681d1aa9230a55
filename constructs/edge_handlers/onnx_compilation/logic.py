"""Optimises a model ahead of time with ONNX Runtime, so that devices load it in half the time and memory.

Permissions:
    s3:GetObject        `sources/<model>/*` and `artifacts/*` (the runtime's wheels) of the artifact bucket
    s3:GetObject, s3:PutObject
                        `compiled/*` of the artifact bucket
    s3:ListBucket       the artifact bucket (without it a missing key answers 403 in place of 404)
    kms:Decrypt, kms:GenerateDataKey
                        the bucket's key

The runtime is no part of the function: its wheels are taken from the archive that the devices install, so that what
writes the model and what reads it are the same version. The function must have their Python version and architecture.

Deletion keeps the result, as the package made of it is kept; the bucket's sweep takes both.
"""

import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_handlers.custom_resource import Properties
from edge_handlers.deadline import Deadline
from edge_handlers.model_package.archive import fetch
from edge_handlers.model_package.package_store import PackageStore
from edge_handlers.onnx_compilation.optimiser import run_optimiser
from edge_handlers.onnx_compilation.wheels import unpack_wheels
from edge_handlers.s3_location import S3Location

MODEL = "model.onnx"


class SourceError(ValueError):
    """The source archive cannot be compiled."""


@dataclass(frozen=True)
class OnnxCompilation:
    """The properties of the custom resource.

    Args:
        source: The model archive (.tar.gz) with one .onnx file.
        runtime: The runtime component's archive, which holds the wheels.
        output: Prefix under which the result gets a folder of its own.
        name: What the folder's name starts with; 12 hexadecimal digits of the content follow.
        shapes: Name of each input to its shape, -1 for any size.
        kms_key_id: Encrypts the result; None for the bucket's default.
    """

    source: S3Location
    runtime: S3Location
    output: S3Location
    name: str
    shapes: dict[str, Any]
    kms_key_id: str | None = None

    @classmethod
    def of(cls, properties: Properties) -> "OnnxCompilation":
        """Read SourceUri, RuntimeUri, OutputUri, JobNamePrefix, DataInputConfig and KmsKeyId.

        Raises:
            ValueError: One is missing or malformed.
        """
        return cls(
            source=S3Location.parse(properties.text("SourceUri")),
            runtime=S3Location.parse(properties.text("RuntimeUri")),
            output=S3Location.parse(properties.text("OutputUri").rstrip("/")),
            name=properties.text("JobNamePrefix"),
            shapes=properties.json_object("DataInputConfig"),
            kms_key_id=properties.optional_text("KmsKeyId"),
        )

    @property
    def key(self) -> str:
        """Where the result goes: the same for everything that makes the same result."""
        told = json.dumps([str(self.source), str(self.runtime), self.shapes], sort_keys=True)
        return f"{self.output.key}/{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}/model.tar.gz"


def build(compilation: OnnxCompilation, s3: Any, deadline: Deadline) -> dict[str, Any]:
    """Optimise the model and store it as a compiler's artifact.

    Args:
        compilation: What to make from what.
        s3: A boto3 S3 client.
        deadline: Checked between the steps; the compiler is ended there.

    Returns:
        The answer to the Provider framework: PhysicalResourceId is the artifact's S3 URI; Data ArtifactUri.

    Raises:
        ArchiveError, SourceError, WheelError: An archive cannot be used.
        OptimiserError: ONNX Runtime refuses the model.
        AwsCallError: S3 refused a call.
        DeadlineError: The time is over.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _only_model(compilation.source, folder / "source", s3)
        deadline.check(f"read {compilation.runtime}")
        site = unpack_wheels(compilation.runtime, folder / "site", s3)
        optimised = folder / MODEL
        run_optimiser(model, optimised, compilation.shapes, site, deadline)
        archive = folder / "model.tar.gz"
        _pack(optimised, archive)
        deadline.check(f"upload the model {compilation.name}")
        digest = _sha256(archive)
        store = PackageStore(s3, compilation.output.bucket, compilation.kms_key_id)
        place = store.put_file(compilation.key, archive, digest, "application/gzip")
    return {"PhysicalResourceId": str(place), "Data": {"ArtifactUri": str(place)}}


def _only_model(place: S3Location, folder: Path, s3: Any) -> Path:
    models = [name for name in fetch(place, folder, s3) if name.endswith(".onnx")]
    if len(models) != 1:
        raise SourceError(f"model archive {place} must hold exactly one .onnx file, got {models or 'none'}")
    return folder / models[0]


def _pack(model: Path, target: Path) -> None:
    """Write an archive whose bytes follow from the model alone; not compressed, because weights hardly shrink."""
    with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=0, mtime=0) as file:
        stream = io.BufferedWriter(file)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            entry = tarfile.TarInfo(MODEL)
            entry.size = model.stat().st_size
            with model.open("rb") as content:
                archive.addfile(entry, content)
        stream.flush()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
