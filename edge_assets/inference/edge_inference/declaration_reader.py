"""Reads a model's declaration out of its package's manifest."""

import math
from collections.abc import Mapping
from pathlib import Path

from edge_inference.declaration import DTYPES, FREE, IMAGES, TABLES, TASKS, TENSORS, ModelPackage, Tensor
from edge_inference.manifest_fields import array, known, mapping, number, texts, whole_number
from edge_inference.preprocessing import CHANNELS, INPUT_DTYPES, Preprocessing

FLOATS = ("float32", "float16", "float64")
#: What a classification's input may hold; its output holds one of `FLOATS`.
CLASSIFIED = {IMAGES: INPUT_DTYPES, TABLES: (*FLOATS, "int64", "int32")}
PREPROCESSING = ("width", "height", "mode", "mean", "std", "order", "layout", "resize")


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
    inputs = _tensors(manifest, "inputs", task, CLASSIFIED.get(task, tuple(DTYPES)))
    package = ModelPackage(
        folder=folder,
        name=str(manifest["name"]),
        version=str(manifest["version"]),
        task=task,
        inputs=inputs,
        outputs=_tensors(manifest, "outputs", task, tuple(DTYPES) if task == TENSORS else FLOATS),
        labels=() if task == TENSORS else _labels(manifest),
        preprocessing=_preprocessing(mapping(manifest, "preprocessing"), inputs[0].dtype) if task == IMAGES else None,
        samples=_samples(folder, manifest) if manifest.get("samples") is not None else None,
        features=texts(manifest, "features") if task == TABLES else (),
        probabilities=manifest.get("probabilities") is True,
        notice=str(manifest.get("notice", "")),
    )
    if task != TENSORS:
        _check_shapes(package)
    return package


def _labels(manifest: Mapping[str, object]) -> tuple[str, ...]:
    labels = array(manifest, "labels")
    for place, label in enumerate(labels):
        if not isinstance(label, (str, int)) or isinstance(label, bool) or not str(label).strip():
            raise ValueError(f"labels[{place}] must be a text that is not empty, or a whole number, got {label!r}")
    return tuple(map(str, labels))


def _preprocessing(fields: Mapping[str, object], dtype: str) -> Preprocessing:
    known(fields, "preprocessing", PREPROCESSING)
    mode, resize = str(fields["mode"]), fields.get("resize")
    factors = {}
    for key, neutral in (("mean", 0), ("std", 1)):
        values = array(fields, key) if key in fields else [neutral] * CHANNELS.get(mode, 1)
        factors[key] = tuple(number(value) for value in values)
    return Preprocessing(
        width=whole_number(fields["width"]),
        height=whole_number(fields["height"]),
        mode=mode,
        mean=factors["mean"],
        std=factors["std"],
        order=str(fields.get("order", "RGB")),
        layout=str(fields.get("layout", "NCHW")),
        resize=None if resize is None else whole_number(resize),
        dtype=dtype,
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
    count, values = len(package.labels), package.output.shape
    # A single value is the second label's against the first, as binary models have it.
    if min(values, default=1) < 1 or math.prod(values) not in ((count, 1) if count == 2 else (count,)):
        raise ValueError(
            f"the output's shape must be {(1, count)}, one value a label{' or one for both' if count == 2 else ''}, "
            f"got {values} for {count} labels"
        )


def _tensors(manifest: Mapping[str, object], key: str, task: str, dtypes: tuple[str, ...]) -> tuple[Tensor, ...]:
    tensors = array(manifest, key)
    if task != TENSORS and len(tensors) != 1:
        raise ValueError(f"{key} must hold one tensor, got {len(tensors)}: the task {TENSORS} takes any number")
    if not tensors:
        raise ValueError(f"{key} must hold at least one tensor, got none")
    return tuple(_tensor(tensor, key, dtypes) for tensor in tensors)


def _tensor(tensor: object, key: str, dtypes: tuple[str, ...]) -> Tensor:
    if not isinstance(tensor, Mapping):
        raise TypeError(f"{key} must hold objects, got {type(tensor).__name__}")
    if tensor["dtype"] not in dtypes:
        raise ValueError(f"{key} dtype must be {' or '.join(dtypes)}, got {tensor['dtype']!r}")
    shape = tuple(whole_number(size) for size in array(tensor, "shape"))
    if any(size < 1 and size != FREE for size in shape):
        raise ValueError(f"{key} shape must hold sizes of at least 1, or {FREE} for a free one, got {shape}")
    return Tensor(str(tensor["name"]), shape, str(tensor["dtype"]))
