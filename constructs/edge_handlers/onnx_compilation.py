"""Custom resource: a model optimised ahead of time by ONNX Runtime: devices load it in half the time and memory.

The runtime is no part of the function: its wheels are taken from an archive that holds the devices' versions for the
function's Python, so that what writes the model and what reads it are the same version.

Deletion keeps the result, as the package made of it is kept; the bucket's sweep takes both.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, Properties, RequestType, content_name, json_object, parse
from edge_handlers.model_archive import fetch, pack
from edge_handlers.s3_objects import ObjectStore, S3Location, check_job, check_own, sha256_of, source_of, uri
from edge_handlers.service_client import Deadline, client, explaining

MODEL = "model.onnx"
NEEDED = ("numpy", "onnxruntime")
#: Of this interpreter, in wheels' names: AWS runs another one than the twin does.
TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
#: Runs in a process of its own: a model that crashes it fails one resource, not the function.
PROGRAM = Path(__file__).with_name("onnx_optimise.py")


class SourceError(ValueError):
    """The source archive cannot be compiled."""


class WheelError(ValueError):
    """The runtime's archive lacks a library."""


class OptimiserError(RuntimeError):
    """ONNX Runtime refuses the model."""


@dataclass(frozen=True, kw_only=True)
class OnnxCompilation(Contract):
    """What to make from what.

    Args:
        model: The model's name: only its own source is read.
        source_uri: The model archive (.tar.gz) with one .onnx file.
        runtime_uri: The runtime component's archive, which holds the wheels.
        output_uri: Prefix under which the result gets a folder of its own.
        name: What the folder's name starts with; 12 hexadecimal digits of the content follow.
        shapes: Name of each input to its shape, -1 for any size.
        kms_key_id: Encrypts the result; None for the bucket's default.
    """

    TYPE = "Custom::OnnxCompilation"

    model: Annotated[str, Key("Model")]
    source_uri: Annotated[str, uri("SourceUri")]
    runtime_uri: Annotated[str, uri("RuntimeUri")]
    output_uri: Annotated[str, uri("OutputUri", "/")]
    name: Annotated[str, Key("JobNamePrefix")]
    shapes: Annotated[dict[str, Any], json_object("DataInputConfig")]
    kms_key_id: Annotated[str | None, Key("KmsKeyId")] = None

    def check(self, properties: Properties) -> None:
        """Refuse another model's name and source, and what is no runtime."""
        check_job(f"{properties.where}.{self.key('name')}", self.name, self.model)
        check_own(f"{properties.where}.{self.key('source_uri')}", self.source_uri, source_of(self.model))
        check_own(f"{properties.where}.{self.key('runtime_uri')}", self.runtime_uri, "artifacts/.+")

    @property
    def result(self) -> S3Location:
        """Where the result goes: the same for everything that makes the same result."""
        output = S3Location.parse(self.output_uri)
        folder = content_name(self.name, [self.source_uri, self.runtime_uri, self.shapes])
        return S3Location(output.bucket, f"{output.key}/{folder}/model.tar.gz")


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of CloudFormation: Create and Update optimise the model, Delete keeps the result."""
    request = parse(event)
    if request.type is RequestType.DELETE:
        return {"PhysicalResourceId": request.known_id}
    return build(OnnxCompilation.of(request.properties), client("s3"), Deadline.of(context))


def build(compilation: OnnxCompilation, s3: Any, deadline: Deadline) -> dict[str, Any]:
    """Optimise the model and store it as a compiler's artifact.

    Args:
        compilation: What to make from what.
        s3: A boto3 S3 client.
        deadline: Checked between the steps; the compiler is ended there.

    Returns:
        What `answering` sends: PhysicalResourceId is the artifact's S3 URI; Data ArtifactUri.

    Raises:
        ArchiveError, SourceError, WheelError: An archive cannot be used.
        OptimiserError: ONNX Runtime refuses the model.
        AwsCallError: S3 refused a call.
        DeadlineError: The time is over.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = _only_model(S3Location.parse(compilation.source_uri), folder / "source", s3)
        runtime = S3Location.parse(compilation.runtime_uri)
        deadline.check(f"read {runtime}")
        site = unpack_wheels(runtime, folder / "site", s3)
        optimised = folder / MODEL
        run_optimiser(model, optimised, compilation.shapes, site, deadline)
        archive = folder / "model.tar.gz"
        pack({MODEL: optimised}, archive)
        deadline.check(f"upload the model {compilation.name}")
        result = compilation.result
        store = ObjectStore(s3, result.bucket, compilation.kms_key_id)
        place = store.put_file(result.key, archive, sha256_of(archive), "application/gzip")
    return {"PhysicalResourceId": str(place), "Data": {"ArtifactUri": str(place)}}


def _only_model(place: S3Location, folder: Path, s3: Any) -> Path:
    models = [name for name in fetch(place, folder, s3) if name.endswith(".onnx")]
    if len(models) != 1:
        raise SourceError(f"model archive {place} must hold exactly one .onnx file, got {models or 'none'}")
    return folder / models[0]


def unpack_wheels(place: S3Location, site: Path, s3: Any) -> Path:
    """Unpack numpy and ONNX Runtime for this interpreter.

    Args:
        place: The archive, a zip with `wheels/<name>-….whl` in it, for one Python or several.
        site: Where to; made here.
        s3: A boto3 S3 client.

    Returns:
        The folder, to be put on a Python path.

    Raises:
        WheelError: A library is not in the archive for this interpreter, or the archive is no zip.
        AwsCallError: S3 refused the call.
    """
    archive = site.with_suffix(".zip")
    with explaining(f"read the runtime's archive {place}"), archive.open("wb") as file:
        s3.download_fileobj(place.bucket, place.key, file)
    try:
        with zipfile.ZipFile(archive) as runtime:
            names = [name for name in runtime.namelist() if name.endswith(".whl")]
            for needed in NEEDED:
                wheels = [name for name in names if name.rpartition("/")[2].startswith(f"{needed}-")]
                fitting = [name for name in wheels if f"-{TAG}-" in name]
                if len(fitting) != 1:
                    raise WheelError(
                        f"{place} must hold one wheel of {needed} for {TAG}, got {wheels or 'none'}: run make setup"
                    )
                with zipfile.ZipFile(io.BytesIO(runtime.read(fitting[0]))) as wheel:
                    wheel.extractall(site)
    except zipfile.BadZipFile as exc:
        raise WheelError(f"{place} must be a zip of wheels, got a damaged one: {exc}") from exc
    finally:
        archive.unlink()
    return site


def run_optimiser(source: Path, target: Path, shapes: dict[str, Any], site: Path, deadline: Deadline) -> None:
    """Optimise a model.

    Args:
        source: The ONNX model.
        target: Where the optimised one goes.
        shapes: Name of each input to its shape.
        site: Folder with numpy and ONNX Runtime.
        deadline: The process is ended then.

    Raises:
        OptimiserError: The model cannot be loaded or run with these shapes, or crashed the compiler.
        DeadlineError: The time is over.
    """
    environment = {**os.environ, "PYTHONPATH": str(site), "ORT_DISABLE_TELEMETRY": "1"}
    try:
        result = subprocess.run(
            [sys.executable, str(PROGRAM), str(source), str(target)],
            input=json.dumps(shapes),
            capture_output=True,
            text=True,
            # What it says of a model may hold the model's own bytes.
            errors="replace",
            env=environment,
            timeout=max(deadline.remaining(), 1),
            check=False,
        )
    except subprocess.TimeoutExpired:
        deadline.check(f"optimise {source.name}")
        raise
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["it said nothing"]
        raise OptimiserError(f"ONNX Runtime cannot compile {source.name} (exit code {result.returncode}): {said[-1]}")


handler = answering(on_event)
