"""The unpacked package of a model: what it must hold, and the proof that it is what was shipped."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from edge_inference.preprocessing import Preprocessing
from edge_inference.signature import SIGNATURE, SIGNATURE_BYTES, SignatureError, SigningKey

MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20
#: The portable form of a model; a compiled one may lie beside it.
MODEL_FILE = "model.onnx"
DTYPE = "float32"


class ModelPackageError(Exception):
    """A package that must not be used; the text names the file, the rule and what was found."""


@dataclass(frozen=True)
class Tensor:
    """Name and shape of a model's input or output, float32."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelPackage:
    """A package whose files are the ones that its manifest describes.

    Args:
        folder: Where it is unpacked.
        name: Name of the model.
        version: Version of the package.
        model_input: The one input.
        output: The one output, one logit a label.
        labels: In the order of the classes.
        preprocessing: From pixels to the input.
        samples: File of held-out samples and the value in it that stands for 1.0; None without samples.
        signed: Whether its signature was checked; False where the device has no signing key.
    """

    folder: Path
    name: str
    version: str
    model_input: Tensor
    output: Tensor
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    samples: tuple[Path, float] | None
    signed: bool = False

    @property
    def model_file(self) -> Path:
        """The ONNX model."""
        return self.folder / MODEL_FILE


def open_package(folder: Path, key: SigningKey | None = None) -> ModelPackage:
    """Read a package's manifest and verify the size and the digest of every file before anything uses them.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The verified package.

    Raises:
        ModelPackageError: A file is missing, cut off or changed, the signature does not hold, or the manifest is not
            usable.
    """
    manifest = verified_manifest(folder, key)
    try:
        package = replace(_package(folder, manifest), signed=key is not None)
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    _check_shapes(package)
    return package


def verified_manifest(folder: Path, key: SigningKey | None = None) -> Mapping[str, object]:
    """Verify a package as shipped, whatever its model is for: first the manifest's signature, then every file.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The manifest.

    Raises:
        ModelPackageError: A file is missing, cut off or changed, or the signature does not hold.
    """
    manifest = _manifest(folder, key)
    try:
        _verify_files(folder, _mapping(manifest, "files"))
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    return manifest


def _verify_signature(folder: Path, manifest: bytes, key: SigningKey) -> None:
    path = folder / SIGNATURE
    try:
        with path.open("rb") as stream:
            key.verify(manifest, stream.read(SIGNATURE_BYTES))
    except FileNotFoundError as exc:
        raise ModelPackageError(
            f"{path} is missing: this device takes signed packages only, package the model with the signing key"
        ) from exc
    except OSError as exc:
        raise ModelPackageError(f"{path} cannot be read: {exc.strerror}") from exc
    except SignatureError as exc:
        raise ModelPackageError(f"{path} {exc}") from exc


def _manifest(folder: Path, key: SigningKey | None) -> Mapping[str, object]:
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MANIFEST_BYTES:
            raise ModelPackageError(f"{path} must have at most {MANIFEST_BYTES} bytes, got {path.stat().st_size}")
        content = path.read_bytes()
    except OSError as exc:
        raise ModelPackageError(f"{path} cannot be read: {exc.strerror}") from exc
    if key is not None:
        _verify_signature(folder, content, key)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ModelPackageError(f"{path} must be JSON: {exc}") from exc
    if not isinstance(manifest, dict):
        raise ModelPackageError(f"{path} must be a JSON object, got {type(manifest).__name__}")
    return manifest


def _verify_files(folder: Path, files: Mapping[str, object]) -> None:
    if MODEL_FILE not in files:
        raise ValueError(f"files must hold {MODEL_FILE}, got {sorted(files)}")
    for name in files:
        expected = _mapping(files, name)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"files must lie inside the package, got {name!r}")
        file = folder / path
        try:
            size = file.stat().st_size
            if size != expected["bytes"]:
                raise ModelPackageError(f"{file} must have {expected['bytes']} bytes, got {size}")
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as exc:
            raise ModelPackageError(f"{file} cannot be read: {exc.strerror}") from exc
        if digest != expected["sha256"]:
            raise ModelPackageError(f"{file} must have the SHA-256 {expected['sha256']}, got {digest}")


def _package(folder: Path, manifest: Mapping[str, object]) -> ModelPackage:
    preprocessing = _mapping(manifest, "preprocessing")
    samples = manifest.get("samples")
    return ModelPackage(
        folder=folder,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        model_input=_tensor(manifest, "inputs"),
        output=_tensor(manifest, "outputs"),
        labels=tuple(str(label) for label in _list(manifest, "labels")),
        preprocessing=Preprocessing(
            width=_whole_number(preprocessing["width"]),
            height=_whole_number(preprocessing["height"]),
            mode=str(preprocessing["mode"]),
            mean=tuple(_number(value) for value in _list(preprocessing, "mean")),
            std=tuple(_number(value) for value in _list(preprocessing, "std")),
        ),
        samples=_samples(folder, manifest) if samples is not None else None,
    )


def _samples(folder: Path, manifest: Mapping[str, object]) -> tuple[Path, float]:
    samples = _mapping(manifest, "samples")
    file, maximum = samples["file"], _number(samples["maximum"])
    if file not in _mapping(manifest, "files"):
        raise ValueError(f"samples.file must be one of files, got {file!r}")
    if maximum <= 0:
        raise ValueError(f"samples.maximum must be above 0, got {maximum}")
    return folder / str(file), maximum


def _check_shapes(package: ModelPackage) -> None:
    where = package.folder / MANIFEST
    if package.model_input.shape != package.preprocessing.shape:
        raise ModelPackageError(
            f"{where}: the input's shape must be {package.preprocessing.shape}, which preprocessing makes, "
            f"got {package.model_input.shape}"
        )
    if package.output.shape != (1, len(package.labels)):
        raise ModelPackageError(
            f"{where}: the output's shape must be {(1, len(package.labels))}, one value a label, "
            f"got {package.output.shape}"
        )


def _tensor(manifest: Mapping[str, object], key: str) -> Tensor:
    tensors = _list(manifest, key)
    if len(tensors) != 1 or not isinstance(tensors[0], Mapping):
        raise ValueError(f"{key} must hold one tensor, got {len(tensors)}")
    tensor = tensors[0]
    if tensor["dtype"] != DTYPE:
        raise ValueError(f"{key} dtype must be {DTYPE}, got {tensor['dtype']!r}")
    return Tensor(str(tensor["name"]), tuple(_whole_number(size) for size in _list(tensor, "shape")))


def _mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = parent[key]
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be an object, got {type(value).__name__}")
    return value


def _list(parent: Mapping[str, object], key: str) -> list[object]:
    value = parent[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} must be a list, got {type(value).__name__}")
    return value


def _whole_number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a size must be a whole number, got {value!r}")
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"a factor must be a number, got {value!r}")
    return float(value)
