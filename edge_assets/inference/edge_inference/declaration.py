"""What a model's declaration says: task, inputs and outputs, labels, pre-processing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_inference.manifest_fields import array, mapping, number, texts, whole_number
from edge_inference.preprocessing import Preprocessing

#: The portable form of a model; a compiled one may lie beside it.
MODEL_FILE = "model.onnx"
DTYPE = "float32"
IMAGES, TABLES, TENSORS = "image-classification", "tabular-classification", "tensors"
TASKS = (IMAGES, TABLES, TENSORS)
#: What ONNX Runtime calls the types that a declaration may name.
DTYPES = {
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
    "int16": "tensor(int16)",
    "int8": "tensor(int8)",
    "uint8": "tensor(uint8)",
    "bool": "tensor(bool)",
}
#: A size that is free, such as the batch of a model with dynamic batch.
FREE = -1


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
        inputs: One for the classifying tasks, at least one for tensors.
        outputs: One for the classifying tasks: a value a label; at least one for tensors.
        labels: In the order of the classes; none for tensors.
        preprocessing: From pixels to the input; None unless the task is image classification.
        samples: File of held-out samples and the value in it that stands for 1.0; None without samples.
        features: Names of a table's columns; empty unless the task is tabular classification.
        probabilities: Whether the output holds probabilities already instead of logits.
        notice: What every answer must say of the model, such as that its weights are random; mostly empty.
        signed: Whether its signature was checked; False where the device has no signing key.
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
    package = ModelPackage(
        folder=folder,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        task=task,
        inputs=_tensors(manifest, "inputs", task),
        outputs=_tensors(manifest, "outputs", task),
        labels=() if task == TENSORS else tuple(str(label) for label in array(manifest, "labels")),
        preprocessing=_preprocessing(mapping(manifest, "preprocessing")) if task == IMAGES else None,
        samples=_samples(folder, manifest) if manifest.get("samples") is not None else None,
        features=texts(manifest, "features") if task == TABLES else (),
        probabilities=manifest.get("probabilities") is True,
        notice=str(manifest.get("notice", "")),
    )
    if task != TENSORS:
        _check_shapes(package)
    return package


def _preprocessing(fields: Mapping[str, object]) -> Preprocessing:
    resize = fields.get("resize")
    return Preprocessing(
        width=whole_number(fields["width"]),
        height=whole_number(fields["height"]),
        mode=str(fields["mode"]),
        mean=tuple(number(value) for value in array(fields, "mean")),
        std=tuple(number(value) for value in array(fields, "std")),
        order=str(fields.get("order", "RGB")),
        layout=str(fields.get("layout", "NCHW")),
        resize=None if resize is None else whole_number(resize),
    )


def _samples(folder: Path, manifest: Mapping[str, object]) -> tuple[Path, float]:
    samples = mapping(manifest, "samples")
    file, maximum = samples["file"], number(samples.get("maximum", 1))
    if file not in mapping(manifest, "files"):
        raise ValueError(f"samples.file must be one of files, got {file!r}")
    if maximum <= 0:
        raise ValueError(f"samples.maximum must be above 0, got {maximum}")
    return folder / str(file), maximum


def _check_shapes(package: ModelPackage) -> None:
    found = package.model_input.shape
    if package.preprocessing is not None and found != package.preprocessing.shape:
        raise ValueError(
            f"the input's shape must be {package.preprocessing.shape}, which preprocessing makes, got {found}"
        )
    if package.task == TABLES and (len(found) != 2 or found != (1, len(package.features))):
        raise ValueError(f"the input's shape must be {(1, len(package.features))}, one value a feature, got {found}")
    if package.output.shape != (1, len(package.labels)):
        raise ValueError(
            f"the output's shape must be {(1, len(package.labels))}, one value a label, got {package.output.shape}"
        )


def _tensors(manifest: Mapping[str, object], key: str, task: str) -> tuple[Tensor, ...]:
    tensors = array(manifest, key)
    if task != TENSORS and len(tensors) != 1:
        raise ValueError(f"{key} must hold one tensor, got {len(tensors)}")
    if not tensors:
        raise ValueError(f"{key} must hold at least one tensor, got none")
    return tuple(_tensor(tensor, key, task) for tensor in tensors)


def _tensor(tensor: object, key: str, task: str) -> Tensor:
    if not isinstance(tensor, Mapping):
        raise TypeError(f"{key} must hold objects, got {type(tensor).__name__}")
    known = tuple(DTYPES) if task == TENSORS else (DTYPE,)
    if tensor["dtype"] not in known:
        raise ValueError(f"{key} dtype must be {' or '.join(known)}, got {tensor['dtype']!r}")
    shape = tuple(whole_number(size) for size in array(tensor, "shape"))
    if any(size < 1 and size != FREE for size in shape):
        raise ValueError(f"{key} shape must hold sizes of at least 1, or {FREE} for a free one, got {shape}")
    return Tensor(str(tensor["name"]), shape, str(tensor["dtype"]))
