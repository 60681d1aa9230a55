"""A model's unpacked package: what its manifest says, and the proof that it is what was shipped."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from edge_inference.models.detection import KEYS as DETECTION
from edge_inference.models.detection import Detection, read_detection
from edge_inference.models.drift import Reference, read_reference
from edge_inference.models.integrity import (
    SIGNATURE,
    SIGNATURE_BYTES,
    Contents,
    SignatureError,
    SigningKey,
    open_file,
    read_file,
)
from edge_inference.models.pictures import CHANNELS, INPUT_DTYPES, LETTERBOX, PAD, STRETCH, Preprocessing

#: The portable form of a model; a compiled one may lie beside it.
MODEL_FILE = "model.onnx"
DTYPE = "float32"
IMAGES, OBJECTS = "image-classification", "object-detection"
TABLES, TENSORS = "tabular-classification", "tensors"
TASKS = (IMAGES, OBJECTS, TABLES, TENSORS)
#: What ONNX Runtime calls the types that a declaration may name.
DTYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int16": "tensor(int16)",
    "int8": "tensor(int8)",
    "uint64": "tensor(uint64)",
    "uint32": "tensor(uint32)",
    "uint16": "tensor(uint16)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
    "string": "tensor(string)",
}
#: What float32 has no place for, infinity and NaN make nothing of every pixel.
FACTOR_LIMIT = 1e38
#: A size that is free, such as the batch of a model with dynamic batch.
FREE = -1
FLOATS = ("float32", "float16", "float64")
#: What a task's input and outputs may hold; others take all of `DTYPES`.
INPUTS = {IMAGES: INPUT_DTYPES, OBJECTS: INPUT_DTYPES, TABLES: (*FLOATS, "int64", "int32")}
OUTPUTS = {IMAGES: FLOATS, OBJECTS: (*FLOATS, "int64", "int32"), TABLES: FLOATS}
PREPROCESSING = ("width", "height", "mode", "mean", "std", "order", "layout", "resize", "fit", "pad")
MANIFEST = "manifest.json"
MANIFEST_BYTES = 1 << 20
#: Folder of a compiler's output, which this component does not load.
COMPILED = "compiled"
_PART_BYTES = 1 << 20
#: Weights are held once by the session and once, for a moment, by the reader of the file.
MEMORY_FACTOR = 2


class ModelPackageError(Exception):
    """A package that must not be used; the text names the file, the rule and what was found."""


@dataclass(frozen=True)
class Tensor:
    """Name, shape and type of a model's input or output; a size of -1 is free."""

    name: str
    shape: tuple[int, ...]
    dtype: str = DTYPE


@dataclass(frozen=True)
class ModelPackage:
    """A package whose files are the ones that its manifest describes.

    Args:
        folder: Where it is unpacked.
        name: Name of the model.
        version: Version of the package.
        task: What the model does, one of `TASKS`.
        inputs: One, but for tensors at least one.
        outputs: One for the classifying tasks: a value a label, or one value for two labels; else at least one.
        labels: In the order of the classes; none for tensors.
        preprocessing: From pixels to the input; None unless the task takes pictures.
        samples: File of held-out samples and the value in it that stands for 1.0; None without samples.
        features: Names of a table's columns; empty unless the task is tabular classification.
        probabilities: Whether the output holds probabilities already instead of logits.
        notice: What every answer must say of the model, such as that its weights are random; mostly empty.
        signed: Whether its signature was checked; False where the device has no signing key.
        contents: Its files as they were verified; empty once the model is loaded.
        detection: From outputs to objects; None unless the task is object detection.
        reference: What its held-out samples look like; None where the package does not say.
    """

    folder: Path
    name: str
    version: str
    task: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...]
    preprocessing: Preprocessing | None
    samples: tuple[Path, float] | None
    features: tuple[str, ...] = ()
    probabilities: bool = False
    notice: str = ""
    signed: bool = False
    contents: Contents = field(default_factory=lambda: Contents({}), repr=False, compare=False)
    detection: Detection | None = None
    reference: Reference | None = None

    @property
    def model_input(self) -> Tensor:
        """The first input, the only one of a classifying model."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The first output, the only one of a classifying model."""
        return self.outputs[0]

    @property
    def model_file(self) -> Path:
        """The ONNX model."""
        return self.folder / MODEL_FILE


def _mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Read an object."""
    value = parent[key]
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be an object, got {type(value).__name__}")
    return value


def _array(parent: Mapping[str, object], key: str) -> list[object]:
    """Read a list."""
    value = parent[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} must be a list, got {type(value).__name__}")
    return value


def _texts(parent: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Read a list of texts; whatever is in it is taken as its text, nothing where the key is missing."""
    return tuple(str(value) for value in _array(parent, key)) if key in parent else ()


def _whole_number(value: object) -> int:
    """Read a size."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a size must be a whole number, got {value!r}")
    return value


def _number(value: object) -> float:
    """Read a factor."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < FACTOR_LIMIT:
        raise TypeError(f"a factor must be a number below {FACTOR_LIMIT:g}, got {value!r:.60}")
    return float(value)


def _known(parent: Mapping[str, object], key: str, names: tuple[str, ...]) -> None:
    """Refuse what nobody reads: a misspelt key would be without effect."""
    if unknown := sorted(set(parent) - set(names)):
        raise ValueError(f"{key} must hold {', '.join(names)}, got {', '.join(unknown)}")


def read_declaration(folder: Path, manifest: Mapping[str, object]) -> ModelPackage:
    """Read a manifest.

    Args:
        folder: Where the package is unpacked.
        manifest: Its manifest: the model's declaration, its version and its files.

    Returns:
        The package; nothing is known of its files yet.

    Raises:
        KeyError: A required key is missing.
        TypeError, ValueError: A key's value breaks a rule, or two do not fit together.
    """
    task = str(manifest.get("task", IMAGES))
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    inputs = _tensors(manifest, "inputs", task, INPUTS.get(task, tuple(DTYPES)))
    pictures: Preprocessing | None = None
    if task in (IMAGES, OBJECTS):
        pictures = _preprocessing(_mapping(manifest, "preprocessing"), inputs[0].dtype, task)
    package = ModelPackage(
        folder=folder,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        task=task,
        inputs=inputs,
        outputs=_tensors(manifest, "outputs", task, OUTPUTS.get(task, tuple(DTYPES))),
        labels=() if task == TENSORS else _labels(manifest),
        preprocessing=pictures,
        samples=_samples(folder, manifest) if manifest.get("samples") is not None else None,
        features=_texts(manifest, "features") if task == TABLES else (),
        probabilities=manifest.get("probabilities") is True,
        notice=str(manifest.get("notice", "")),
    )
    _check_picture(package)
    if task == OBJECTS and pictures is not None:
        fields = _mapping(manifest, "detection") if manifest.get("detection") is not None else {}
        _known(fields, "detection", DETECTION)
        shapes = {tensor.name: tensor.shape for tensor in package.outputs}
        size = (pictures.width, pictures.height)
        return replace(package, detection=read_detection(fields, shapes, len(package.labels), size))
    if task != TENSORS:
        _check_shapes(package)
    return package


def _labels(manifest: Mapping[str, object]) -> tuple[str, ...]:
    labels = _array(manifest, "labels")
    for place, label in enumerate(labels):
        if not isinstance(label, (str, int)) or isinstance(label, bool) or not str(label).strip():
            raise ValueError(f"labels[{place}] must be a text that is not empty, or a whole number, got {label!r}")
    return tuple(map(str, labels))


def _preprocessing(fields: Mapping[str, object], dtype: str, task: str) -> Preprocessing:
    _known(fields, "preprocessing", PREPROCESSING)
    mode, resize = str(fields["mode"]), fields.get("resize")
    factors = {}
    for key, neutral in (("mean", 0), ("std", 1)):
        values = _array(fields, key) if key in fields else [neutral] * CHANNELS.get(mode, 1)
        factors[key] = tuple(_number(value) for value in values)
    return Preprocessing(
        width=_whole_number(fields["width"]),
        height=_whole_number(fields["height"]),
        mode=mode,
        mean=factors["mean"],
        std=factors["std"],
        order=str(fields.get("order", "RGB")),
        layout=str(fields.get("layout", "NCHW")),
        resize=None if resize is None else _whole_number(resize),
        dtype=dtype,
        # A box is only as good as the proportions of what is in it.
        fit=str(fields.get("fit", LETTERBOX if task == OBJECTS and resize is None else STRETCH)),
        pad=_whole_number(fields.get("pad", PAD)),
    )


def _samples(folder: Path, manifest: Mapping[str, object]) -> tuple[Path, float]:
    samples = _mapping(manifest, "samples")
    file, maximum = samples["file"], _number(samples.get("maximum", 1))
    if file not in _mapping(manifest, "files"):
        raise ValueError(f"samples.file must be one of files, got {file!r}")
    if maximum <= 0:
        raise ValueError(f"samples.maximum must be above 0, got {maximum}")
    return folder / str(file), maximum


def _check_picture(package: ModelPackage) -> None:
    found, wanted = package.model_input.shape, package.preprocessing
    # torchvision exports detectors that take a picture without a batch.
    if wanted is None or found == wanted.shape or (package.task == OBJECTS and found == wanted.shape[1:]):
        return
    raise ValueError(f"the input's shape must be {wanted.shape}, which preprocessing makes, got {found}")


def _check_shapes(package: ModelPackage) -> None:
    found = package.model_input.shape
    if package.task == TABLES and (len(found) != 2 or found != (1, len(package.features))):
        raise ValueError(f"the input's shape must be {(1, len(package.features))}, one value a feature, got {found}")
    count, values = len(package.labels), package.output.shape
    # A single value is the second label's against the first, as binary models have it.
    if min(values, default=1) < 1 or math.prod(values) not in ((count, 1) if count == 2 else (count,)):
        raise ValueError(
            f"the output's shape must be {(1, count)}, one value a label{' or one for both' if count == 2 else ''}, "
            f"got {values} for {count} labels"
        )
    if count == 1 and not package.probabilities:
        raise ValueError(
            "labels must be at least two, got one, which softmax makes certain of whatever the model sees: name the "
            "other case before it, or set probabilities"
        )


def _tensors(manifest: Mapping[str, object], key: str, task: str, dtypes: tuple[str, ...]) -> tuple[Tensor, ...]:
    tensors = _array(manifest, key)
    if task != TENSORS and len(tensors) != 1 and (task, key) != (OBJECTS, "outputs"):
        raise ValueError(f"{key} must hold one tensor, got {len(tensors)}: the task {TENSORS} takes any number")
    if not tensors:
        raise ValueError(f"{key} must hold at least one tensor, got none")
    return tuple(_tensor(tensor, key, dtypes) for tensor in tensors)


def _tensor(tensor: object, key: str, dtypes: tuple[str, ...]) -> Tensor:
    if not isinstance(tensor, Mapping):
        raise TypeError(f"{key} must hold objects, got {type(tensor).__name__}")
    if tensor["dtype"] not in dtypes:
        raise ValueError(f"{key} dtype must be {' or '.join(dtypes)}, got {tensor['dtype']!r}")
    shape = tuple(_whole_number(size) for size in _array(tensor, "shape"))
    if any(size < 1 and size != FREE for size in shape):
        raise ValueError(f"{key} shape must hold sizes of at least 1, or {FREE} for a free one, got {shape}")
    return Tensor(str(tensor["name"]), shape, str(tensor["dtype"]))


def open_package(folder: Path, key: SigningKey | None = None) -> ModelPackage:
    """Read a package's manifest and its files, and verify the size and the digest of every one before it is used.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The verified package.

    Raises:
        ModelPackageError: A file is missing, cut off or changed, the signature does not hold, or the manifest is not
            usable.
    """
    manifest, contents = verified(folder, key)
    try:
        package = replace(read_declaration(folder, manifest), signed=key is not None, contents=contents)
        if (name := manifest.get("reference")) is not None:
            if name not in contents:
                raise ValueError(f"reference must be one of files, got {name!r}")
            package = replace(package, reference=read_reference(contents[str(name)]))
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    return package


def declared(folder: Path) -> tuple[str, int]:
    """What a manifest says before anything is verified or loaded.

    Args:
        folder: The unpacked package.

    Returns:
        Version, and bytes of the files that are read into memory; of a manifest of no use "" and 0: loading says why.
    """
    try:
        manifest = _manifest(folder, None)
        files = _mapping(manifest, "files")
        read = [_mapping(files, name)["bytes"] for name in files if PurePosixPath(name).parts[0] != COMPILED]
        return str(manifest["version"]), sum(map(_whole_number, read))
    except (ModelPackageError, LookupError, TypeError):
        return "", 0


def verified(folder: Path, key: SigningKey | None = None) -> tuple[Mapping[str, object], Contents]:
    """Verify a package as shipped, whatever its model is for: first the manifest's signature, then every file.

    Args:
        folder: The unpacked package.
        key: Must have signed the manifest; None, the default, leaves it at the digests.

    Returns:
        The manifest, and the files as they were verified, those of a compiler left out.

    Raises:
        ModelPackageError: A file is missing, cut off, changed or no file, or the signature does not hold.
    """
    manifest = _manifest(folder, key)
    try:
        contents = _verify_files(folder, _mapping(manifest, "files"))
    except KeyError as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc.args[0]} is required") from exc
    except (TypeError, ValueError, AttributeError) as exc:
        raise ModelPackageError(f"{folder / MANIFEST}: {exc}") from exc
    return manifest, contents


def _verify_signature(folder: Path, manifest: bytes, key: SigningKey) -> None:
    path = folder / SIGNATURE
    try:
        key.verify(manifest, read_file(path, SIGNATURE_BYTES))
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
        content = read_file(path, MANIFEST_BYTES)
    except OSError as exc:
        raise ModelPackageError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(content) > MANIFEST_BYTES:
        raise ModelPackageError(f"{path} must have at most {MANIFEST_BYTES} bytes, got more")
    if key is not None:
        _verify_signature(folder, content, key)
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise ModelPackageError(f"{path} must be JSON: {exc}") from exc
    if not isinstance(manifest, dict):
        raise ModelPackageError(f"{path} must be a JSON object, got {type(manifest).__name__}")
    return manifest


def _verify_files(folder: Path, files: Mapping[str, object]) -> Contents:
    if MODEL_FILE not in files:
        raise ValueError(f"files must hold {MODEL_FILE}, got {sorted(files)}")
    contents: dict[str, bytes] = {}
    for name in files:
        expected = _mapping(files, name)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"files must lie inside the package, got {name!r}")
        file, size = folder / path, _whole_number(expected["bytes"])
        try:
            digest, content = _digest(file, size, keep=path.parts[0] != COMPILED)
        except OSError as exc:
            raise ModelPackageError(f"{file} cannot be read: {exc.strerror}") from exc
        if digest != expected["sha256"]:
            raise ModelPackageError(f"{file} must have the SHA-256 {expected['sha256']}, got {digest}")
        if content is not None:
            contents[str(path)] = content
    return Contents(contents)


def _digest(file: Path, size: int, *, keep: bool) -> tuple[str, bytes | None]:
    """The SHA-256 of a file of that size, and its content if that is wanted: the very bytes that were hashed.

    Raises:
        ModelPackageError: It has another size; no more of it is read than that.
        OSError: It cannot be read.
    """
    with open_file(file) as stream:
        found = os.fstat(stream.fileno()).st_size
        if found == size and keep:
            content = stream.read(size + 1)
            if len(content) == size:
                return hashlib.sha256(content).hexdigest(), content
            found = len(content)
        elif found == size:
            # Nothing of it is loaded; one that grows or shrinks meanwhile has another digest.
            hashed, rest = hashlib.sha256(), size
            while rest and (part := stream.read(min(rest, _PART_BYTES))):
                hashed.update(part)
                rest -= len(part)
            return hashed.hexdigest(), None
    raise ModelPackageError(f"{file} must have {size} bytes, got {found}")
