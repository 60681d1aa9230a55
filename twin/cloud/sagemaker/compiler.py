"""One compilation, from S3 to S3, in a process of its own; ONNX Runtime's graph optimiser is the compiler.

With the checks that Neo makes of a model's archive and of its inputs, and with a result that looks like Neo's.
Run: `python -m twin.cloud.sagemaker.compiler`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from twin.cloud.aws.worker import OrderError, serve
from twin.files import unpack

# Read by the library when it is loaded: from 1.29 on it reports usage to its vendor unless it is told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime

_S3 = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})
LIMIT_BYTES = 2 * 1024**3
_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_ARCHITECTURES = {"x86_64": "X86_64", "amd64": "X86_64", "aarch64": "ARM64", "arm64": "ARM64"}


class InputError(Exception):
    """The customer's input is at fault; the text is the job's failure reason after its prefix."""


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
    archive = folder / "source.tar.gz"
    platform = output.get("TargetPlatform", {})
    if source["Framework"] not in ("ONNX", "PYTORCH"):
        raise InputError(
            f"Framework must be ONNX or PYTORCH on the twin, got {source['Framework']}: export the model to ONNX"
        )
    name = _fetch(s3, source["S3Uri"], archive)
    unpacked = folder / "source"
    unpacked.mkdir()
    if source["Framework"] == "PYTORCH":
        packed = compile_torch(archive, unpacked, source, output.get("TargetDevice", ""))
    else:
        compiled = folder / "model.onnx"
        found = extract_model(archive, unpacked)
        shapes = optimise(found, compiled, source.get("DataInputConfig", ""), platform.get("Arch"))
        packed = pack_artifact(compiled.read_bytes(), shapes, platform.get("Arch"))
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


def extract_model(archive: Path, folder: Path, endings: tuple[str, ...] = (".onnx",)) -> Path:
    """Unpack a source archive and find its model.

    Args:
        archive: A gzip-compressed tar.
        folder: Where to unpack; empty.
        endings: What the model's name may end in.

    Returns:
        Path of the only file with such a name.

    Raises:
        InputError: If the archive is damaged, unpacks to more than 2 GiB, holds a path or link that leaves the folder,
            or not exactly one such file.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            size = 0
            for member in tar:
                size += member.size
                if size > LIMIT_BYTES:
                    raise InputError(f"the archive must unpack to at most {LIMIT_BYTES} bytes, got more")
                unpack(tar, member, folder)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        raise InputError(f"the model artifact must be a readable .tar.gz archive: {exc}") from exc
    models = [path for path in sorted(folder.rglob("*")) if path.suffix in endings and path.is_file()]
    if len(models) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in models) or "none"
        wanted = " or ".join(endings)
        raise InputError(f"the archive must hold exactly one file with the extension {wanted}, got {names}")
    return models[0]


def compile_torch(archive: Path, folder: Path, source: dict[str, Any], device: str) -> bytes:
    """Check a PyTorch model as Neo does, and pack it in the form that Neo's image serves; nothing is compiled.

    A traced module is a ZIP with its code (TorchScript); without torch that is all that can be looked at. For a kind of
    instance (`ml_c5`) the result holds the module, for a device it looks like any library of Neo's.

    Args:
        archive: The source, a gzip-compressed tar.
        folder: Where to unpack; empty.
        source: `InputConfig` of the job.
        device: `TargetDevice` of the job; empty for a platform.

    Returns:
        A gzip-compressed tar without times or owners.

    Raises:
        InputError: If the archive holds no traced module, or the inputs are not declared.
    """
    shapes = _declared_shapes(source.get("DataInputConfig", ""))
    model = extract_model(archive, folder, (".pt", ".pth"))
    try:
        with zipfile.ZipFile(model) as module:
            names = {name.partition("/")[2] for name in module.namelist()}
    except (zipfile.BadZipFile, OSError) as exc:
        raise InputError(f"{model.name} must be a module that torch.jit.save wrote, got no ZIP: {exc}") from exc
    if "constants.pkl" not in names or not any(name.startswith("code/") for name in names):
        raise InputError(
            f"{model.name} must be a traced module (torch.jit.trace, then torch.jit.save), got one without code: "
            "torch.save keeps weights or a pickled object, which Neo does not read"
        )
    if not device.startswith("ml_"):
        return pack_artifact(model.read_bytes(), shapes, None)
    return _packed({"compiled.pt": model.read_bytes()})


#: Architecture to ELF's number of it; of others the library is 64-bit x86's.
_ELF_MACHINES = {"X86_64": 62, "ARM64": 183, "ARM_EABIHF": 40, "ARM_EABI": 40, "X86": 3}


def pack_artifact(model: bytes, shapes: dict[str, list[int]], target_arch: str | None) -> bytes:
    """The output archive in Neo's form: a library with its graph and parameters, which ONNX Runtime cannot read.

    No program runs the library: the twin compiles to nothing that a device executes.

    Args:
        model: The optimised model, which all of it follows from.
        shapes: Of the inputs, by name.
        target_arch: SageMaker's name, for instance `X86_64`.

    Returns:
        A gzip-compressed tar without times or owners: the same bytes for the same model and target.
    """
    digest = hashlib.sha256(model).hexdigest()
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    machine = _ELF_MACHINES.get(target_arch or "", 62)
    header = identity + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)
    graph = {
        "nodes": [{"op": "null", "name": name, "inputs": []} for name in sorted(shapes)],
        "attrs": {"shape": ["list_shape", [shapes[name] for name in sorted(shapes)]]},
    }
    members = {
        "compiled.meta": json.dumps({"Model": {"Backend": "tvm", "Digest": digest}}, indent=1).encode(),
        "compiled.params": zlib.compress(model, 1),
        "compiled.so": header + bytes.fromhex(digest),
        "compiled_model.json": json.dumps(graph).encode(),
    }
    return _packed(members)


def _packed(members: dict[str, bytes]) -> bytes:
    compressed = io.BytesIO()
    with gzip.GzipFile(fileobj=compressed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return compressed.getvalue()


def optimise(source: Path, target: Path, data_input_config: str, target_arch: str | None) -> dict[str, list[int]]:
    """Write the optimised model for a target, and prove that it runs with the shapes that were declared.

    Args:
        source: The model.
        target: Where to write.
        data_input_config: JSON object: shape (list of whole numbers, -1 for any) by input name.
        target_arch: SageMaker's name, for instance `X86_64`. For this machine's own architecture every optimisation is
            applied, layouts for its vector units too; for another, or none, those that hold everywhere.

    Returns:
        The declared shapes of its inputs.

    Raises:
        InputError: If the model cannot be loaded or run, or its inputs are not the declared ones.
    """
    shapes = _declared_shapes(data_input_config)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.optimized_model_filepath = str(target)
    own = _ARCHITECTURES.get(platform.machine().lower()) == target_arch
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if own else levels.ORT_ENABLE_EXTENDED
    try:
        session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's exceptions have no common class.
        raise InputError(
            f"ONNX Runtime cannot load the model: {_one_line(exc).replace(str(source), source.name)}"
        ) from exc
    _check_inputs(session.get_inputs(), shapes)
    try:
        session.run(None, {node.name: _zeros(node, shapes[node.name]) for node in session.get_inputs()})
    except Exception as exc:
        raise InputError(f"the model does not run with the shapes of DataInputConfig: {_one_line(exc)}") from exc
    return shapes


def _declared_shapes(data_input_config: str) -> dict[str, list[int]]:
    example = '{"input": [1, 3, 224, 224]}'
    try:
        declared = json.loads(data_input_config)
    except (ValueError, RecursionError) as exc:
        got = data_input_config[:200]
        raise InputError(f"DataInputConfig must be JSON such as {example}, got {got!r}: {exc}") from exc
    if not isinstance(declared, dict) or not declared:
        raise InputError(f"DataInputConfig must be a JSON object such as {example}, got {data_input_config!r}")
    shapes = {}
    for name, value in declared.items():
        shape = value.get("shape") if isinstance(value, dict) else value
        if not isinstance(shape, list) or not all(type(size) is int and (size > 0 or size == -1) for size in shape):
            raise InputError(
                f"DataInputConfig of input {name} must be a list of sizes such as {example}, got {shape!r}"
            )
        shapes[name] = shape
    return shapes


def _check_inputs(nodes: list[Any], shapes: dict[str, list[int]]) -> None:
    names = {node.name for node in nodes}
    if names != set(shapes):
        raise InputError(
            f"DataInputConfig must name the model's inputs {', '.join(sorted(names))}, got {', '.join(sorted(shapes))}"
        )
    for node in nodes:
        declared, actual = shapes[node.name], node.shape
        fits = len(declared) == len(actual) and all(
            not isinstance(size, int) or wanted in (size, -1) for wanted, size in zip(declared, actual, strict=True)
        )
        if not fits:
            raise InputError(
                f"DataInputConfig of input {node.name} must fit the model's shape {actual}, got {declared}"
            )
        if node.type not in _NUMPY_TYPES:
            raise InputError(f"input {node.name} must be a tensor of numbers, got {node.type}")


def _zeros(node: Any, declared: list[int]) -> Any:
    sizes = [
        actual if isinstance(actual, int) else max(wanted, 1)
        for wanted, actual in zip(declared, node.shape, strict=True)
    ]
    return np.zeros(sizes, _NUMPY_TYPES[node.type])


def _one_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:500]


def main() -> None:
    """Carry out the order; a failure of the customer's making is an answer."""
    serve(_compile)


def _compile(order: dict[str, Any], folder: Path) -> dict[str, str]:
    try:
        return compile_model(order, boto3.client("s3", config=_S3, **order["client"]), folder)
    except InputError as exc:
        raise OrderError(f"ClientError: InputConfiguration: {exc}") from exc
    except OutputError as exc:
        raise OrderError(f"ClientError: OutputConfiguration: {exc}") from exc


if __name__ == "__main__":
    main()
