"""What a model does with a request: it names a picture, its objects or the class of a row, or answers raw tensors."""

import io
import logging
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.messages import ErrorCode, Prediction, Request, RequestError, Score
from edge_inference.models import pictures
from edge_inference.models.detection import ROUNDING, Detection
from edge_inference.models.drift import measure
from edge_inference.models.package import FREE, ModelPackage, ModelPackageError, Tensor
from edge_inference.models.pictures import Decoded, Preprocessing
from edge_inference.models.runtime import ModelRuntime

log = logging.getLogger(__name__)

_NUMBERS: tuple[str, set[type]] = ("numbers", {int, float})
#: What JSON must hold for NumPy's kinds of types; all others are numbers.
_WANTED: dict[str, tuple[str, set[type]]] = {"b": ("true or false", {bool}), "O": ("texts", {str})}


def top_k(
    values: NDArray[np.float32], labels: Sequence[str], count: int, *, probabilities: bool = False
) -> list[Score]:
    """Choose the most probable labels.

    Args:
        values: Shape (classes,): logits, or probabilities.
        labels: One a class, in the order of the classes.
        count: How many to return, at least 1; all when there are fewer.
        probabilities: Whether the values are probabilities already.

    Returns:
        The best first; equal values in the order of the classes.

    Raises:
        ValueError: A value is not finite, which no input may cause in a sound model.
    """
    left = _finite(values)
    highest = left[left.argmax()]
    # The largest is subtracted first, so that no exponential overflows.
    total = 1.0 if probabilities else float(np.add.reduce(np.exp(left - highest)))
    scores = []
    for _ in range(min(count, len(left))):
        # One after the other, the first of equals: few are asked for, and sorting a thousand classes takes longer.
        place = int(left.argmax())
        value = float(left[place])
        scores.append(Score(labels[place], value if probabilities else math.exp(value - highest) / total))
        left[place] = -math.inf
    return scores


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    finite = values.astype(np.float64)
    # One pass: NaN and infinity stay in a sum.
    if not math.isfinite(np.add.reduce(finite)):
        raise ValueError("a model's output must be finite, got NaN or infinity")
    return finite


def load_samples(package: ModelPackage) -> NDArray[np.float32]:
    """Read a classifying package's samples.

    Args:
        package: A verified package; its samples file holds `images` of shape (count, height, width[, channels]), or
            for tables `rows` of shape (count, features).

    Returns:
        Shape (count, height, width, channels), 0 to 1, or (count, features); count is 0 for a package without samples.

    Raises:
        ModelPackageError: The file is not readable or has another shape.
    """
    wanted = package.preprocessing
    shape: tuple[int, ...] = (len(package.features),)
    if wanted is not None:
        shape = (wanted.height, wanted.width, wanted.channels)
    if package.samples is None:
        return np.empty((0, *shape), np.float32)
    file, maximum = package.samples
    content = package.contents[file.relative_to(package.folder).as_posix()]
    values = _read(file, content, "images" if wanted is not None else "rows")
    if wanted is not None and values.ndim == 3:
        values = values[..., np.newaxis]
    if values.shape[1:] != shape:
        shown = f"(count, {', '.join(map(str, shape))})"
        raise ModelPackageError(f"{file}: samples must have the shape {shown}, got {values.shape}")
    values = values / np.float32(maximum)
    if wanted is not None and values.size and not (values.min() >= -ROUNDING and values.max() <= 1 + ROUNDING):
        raise ModelPackageError(
            f"{file}: images must be from 0 to {maximum:g}, got {values.min() * maximum:g} to "
            f"{values.max() * maximum:g}: set samples.maximum to what stands for white, such as 255"
        )
    return values


def _read(file: Path, content: bytes, name: str) -> NDArray[np.float32]:
    try:
        # Pickled arrays would run code of whoever made the file.
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            found = arrays[name]
            # Complex numbers, dates and texts would be cast to something.
            if found.dtype.kind not in "buif":
                raise TypeError(f"its values must be real numbers, got {found.dtype}")
            return np.asarray(found, dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as exc:
        raise ModelPackageError(f"{file} must hold an array named {name}: {exc}") from exc


@dataclass(frozen=True)
class _PictureModel:
    """A loaded model of pictures.

    Args:
        package: Where it came from.
        runtime: Runs it.
        samples: Held-out pictures, shape (count, height, width, channels), 0 to 1; count may be 0.
        preprocessing: From pixels to the input.
    """

    package: ModelPackage
    runtime: ModelRuntime
    samples: NDArray[np.float32]
    preprocessing: Preprocessing

    def _seen(self, request: Request) -> Decoded:
        if request.image is not None:
            return self.preprocessing.decode(request.image)
        request.needs("index", "image")
        return Decoded(sample(self.samples, request), (self.preprocessing.width, self.preprocessing.height))

    def _first(self) -> tuple[pictures.Pixels, str]:
        """A picture to begin with, and what it is."""
        if len(self.samples):
            return self.samples[0], "its first sample"
        wanted = self.preprocessing
        empty = np.zeros((wanted.height, wanted.width, wanted.channels), np.uint8)
        return empty, "an empty picture, add samples if it cannot take one"


@dataclass(frozen=True)
class ImageClassifier(_PictureModel):
    """A loaded model that names what a picture shows; see `_PictureModel`."""

    def predict(self, request: Request, count: int) -> Prediction:
        """Name what the picture of a request shows; see `Workload.predict`."""
        pixels = self._seen(request).pixels
        return _prediction(self.package, self.runtime, self.preprocessing.apply(pixels), count, pixels)

    def warm_up(self) -> None:
        """Classify the first sample, or an empty picture; see `Workload.warm_up`."""
        pixels, what = self._first()
        _warm_up(self.package, self.runtime, self.preprocessing.apply(pixels), what)


@dataclass(frozen=True)
class TabularClassifier:
    """A loaded model of a table's rows.

    Args:
        package: Where it came from; its features are the row's columns.
        runtime: Runs it.
        samples: Held-out rows, shape (count, features); count may be 0.
    """

    package: ModelPackage
    runtime: ModelRuntime
    samples: NDArray[np.float32]

    def predict(self, request: Request, count: int) -> Prediction:
        """Name the class of a request's row; see `Workload.predict`."""
        request.needs("index", "features")
        row = sample(self.samples, request) if request.features is None else self._row(request)
        return _prediction(self.package, self.runtime, self._typed(row)[np.newaxis], count, row)

    def warm_up(self) -> None:
        """Classify the first sample, or a row of zeros; see `Workload.warm_up`."""
        row: NDArray[Any] = np.zeros(len(self.package.features), self.package.model_input.dtype)
        if len(self.samples):
            row = self.samples[0].astype(row.dtype)
        what = "its first sample" if len(self.samples) else "a row of zeros, add samples if it cannot take one"
        _warm_up(self.package, self.runtime, row[np.newaxis], what)

    def _typed(self, row: NDArray[Any]) -> NDArray[Any]:
        """Bring a row into the input's type."""
        dtype = self.package.model_input.dtype
        try:
            return exact_tensor(row, dtype)
        except ValueError as exc:
            raise RequestError(ErrorCode.INVALID_REQUEST, f"features must be {dtype}: {exc}") from exc

    def _row(self, request: Request) -> NDArray[Any]:
        names, given = self.package.features, request.features
        if isinstance(given, dict):
            if set(given) != set(names):
                raise RequestError(
                    ErrorCode.INVALID_REQUEST,
                    f"features must be exactly {', '.join(names)}, got {', '.join(map(str, given))[:200] or 'none'}",
                )
            given = [given[name] for name in names]
        if given is None or len(given) != len(names):
            raise RequestError(
                ErrorCode.INVALID_REQUEST,
                f"features must have {len(names)} values ({', '.join(names)}), got {len(given or ())}",
            )
        return np.asarray(given, np.float64)


def sample(samples: NDArray[np.float32], request: Request) -> NDArray[np.float32]:
    """Choose the held-out sample that a request asks for.

    Args:
        samples: One a row.
        request: Has an index.

    Raises:
        RequestError: IndexOutOfRange.
    """
    index, count = request.index, len(samples)
    if index is None or not 0 <= index < count:
        known = f"from 0 to {count - 1}" if count else "left out, this model has no samples"
        shown = index if index is None or abs(index) < 1 << 64 else "a very large number"
        raise RequestError(ErrorCode.INDEX_OUT_OF_RANGE, f"index must be {known}, got {shown}")
    chosen: NDArray[np.float32] = samples[index]
    return chosen


def _prediction(
    package: ModelPackage, runtime: ModelRuntime, values: NDArray[Any], count: int, seen: NDArray[Any]
) -> Prediction:
    scores = top_k(_classes(package, runtime.run(values)), package.labels, count, probabilities=package.probabilities)
    measures = {} if package.reference is None else measure(seen, package.features)
    return Prediction(package.version, scores, notice=package.notice, measures=measures)


def _classes(package: ModelPackage, output: NDArray[Any]) -> NDArray[Any]:
    """One value a label, of whatever shape the output is; a single one is the second label's against the first."""
    classes: NDArray[Any] = output.reshape(-1)
    if len(classes) != len(package.labels) and (len(classes), len(package.labels)) != (1, 2):
        raise ValueError(f"a model's output must have {len(package.labels)} values, one a label, got {len(classes)}")
    if package.probabilities and (classes.min() < -ROUNDING or classes.max() > 1 + ROUNDING):
        raise ValueError(
            f"a model's probabilities must be from 0 to 1, got {classes.min():g} to {classes.max():g}: leave out "
            "probabilities in its declaration, then softmax makes them"
        )
    if len(classes) == len(package.labels):
        return classes
    return np.concatenate([1 - classes if package.probabilities else np.zeros_like(classes), classes])


def _warm_up(package: ModelPackage, runtime: ModelRuntime, values: NDArray[Any], what: str) -> None:
    try:
        output = runtime.run(values)
    except Exception as exc:
        raise ModelPackageError(f"{package.model_file} fails on {what}: {exc}") from exc
    if output.shape != package.output.shape:
        raise ModelPackageError(
            f"{package.model_file} must answer with values of shape {package.output.shape}, got {output.shape}"
        )
    if not np.isfinite(output).all():
        raise ModelPackageError(f"{package.model_file} must answer with finite values, got NaN or infinity on {what}")
    try:
        _classes(package, output)
    except ValueError as exc:
        raise ModelPackageError(f"{package.model_file} fails on {what}: {exc}") from exc


@dataclass(frozen=True)
class ObjectDetector(_PictureModel):
    """A loaded detector; see `_PictureModel`.

    Args:
        detection: From the outputs to objects.
    """

    detection: Detection

    def predict(self, request: Request, count: int) -> Prediction:
        """Find the objects of a request's picture; see `Workload.predict`."""
        pixels, size = self._seen(request)
        scores = self._objects(self._run(pixels), size)
        measures = {} if self.package.reference is None else measure(pixels)
        return Prediction(
            self.package.version, scores[:count], notice=self.package.notice, size=size, measures=measures
        )

    def warm_up(self) -> None:
        """Look at the first sample, or at an empty picture; see `Workload.warm_up`."""
        pixels, what = self._first()
        try:
            outputs = self._run(pixels)
            _check_shapes(self.package, outputs)
            self._objects(outputs, (self.preprocessing.width, self.preprocessing.height))
        except Exception as exc:
            raise ModelPackageError(f"{self.package.model_file} fails on {what}: {exc}") from exc

    def _run(self, pixels: NDArray[Any]) -> dict[str, NDArray[Any]]:
        given = self.package.model_input
        # Some exports take a picture without a batch.
        values = self.preprocessing.apply(pixels).reshape(given.shape)
        return self.runtime.run_tensors({given.name: values})

    def _objects(self, outputs: dict[str, NDArray[Any]], size: tuple[int, int]) -> list[Score]:
        found = self.detection.find(outputs)
        corners = self.preprocessing.placement(size).to_picture(found.corners).clip(0, size * 2)
        # What lies in the margin around the picture is no object of it.
        inside = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        return [
            Score(self.package.labels[label], probability, (left, top, right, bottom))
            for (left, top, right, bottom), label, probability in zip(
                corners[inside].tolist(), found.labels[inside].tolist(), found.scores[inside].tolist(), strict=True
            )
        ]


def zeros(shape: list[int], dtype: str) -> NDArray[Any]:
    """Make a tensor of zeros, or of empty texts."""
    return np.full(shape, "", object) if dtype == "string" else np.zeros(shape, dtype)


def exact_tensor(values: object, dtype: str) -> NDArray[Any]:
    """Make a tensor that holds exactly what a client sent; floating-point numbers are rounded to the type's precision.

    Args:
        values: Nested lists of numbers, texts or booleans, as JSON has them.
        dtype: The declared type.

    Returns:
        An array of that type, in the shape of the lists.

    Raises:
        ValueError: The lists are ragged, hold something else (5 is no text, "5" and true are no numbers), or a number
            has no place in the type.
    """
    # As Python's objects first: NumPy would read texts as numbers, cut fractions off, and make all texts equally long.
    found = np.asarray(values, object)
    wanted = np.dtype(object if dtype == "string" else dtype)
    what, types = _WANTED.get(wanted.kind, _NUMBERS)
    if wrong := set(map(type, found.flat)) - types:
        named = ", ".join(sorted(each.__name__ for each in wrong))
        raise ValueError(f"expected {what} in lists of equal length, got {named}")
    try:
        with np.errstate(all="ignore"):
            converted: NDArray[Any] = found.astype(wanted)
            lost = np.isinf(converted) & np.isfinite(found.astype(float)) if wanted.kind == "f" else converted != found
    except (OverflowError, ValueError) as exc:
        raise ValueError(f"a number has no place in it: {exc}") from exc
    if np.any(lost):
        raise ValueError(f"{found[lost].flat[0]!r} has no place in it")
    return converted


@dataclass(frozen=True)
class TensorModel:
    """A loaded model of raw tensors.

    Args:
        package: Where it came from.
        runtime: Runs it.
    """

    package: ModelPackage
    runtime: ModelRuntime

    def predict(self, request: Request, count: int) -> Prediction:
        """Run the model on a request's tensors; see `Workload.predict`."""
        del count  # there are no labels
        request.needs("inputs")
        given = request.inputs or {}
        wanted = {tensor.name: tensor for tensor in self.package.inputs}
        if set(given) != set(wanted):
            raise RequestError(
                ErrorCode.INVALID_REQUEST,
                f"inputs must be exactly {', '.join(wanted)}, got {', '.join(map(str, given))[:200] or 'none'}",
            )
        values = {name: _array(wanted[name], given[name]) for name in wanted}
        outputs = self.runtime.run_tensors(values)
        for name, output in outputs.items():
            # JSON has no form for them, and a client must not take them for a result.
            if output.dtype.kind == "f" and not np.isfinite(output).all():
                raise ValueError(f"output {name} must be finite, got NaN or infinity")
        return Prediction(
            self.package.version,
            outputs={name: value.tolist() for name, value in outputs.items()},
            notice=self.package.notice,
        )

    def warm_up(self) -> None:
        """Run the model on zeros, free sizes as 1; see `Workload.warm_up`.

        A model with free sizes may have no use for a size of 1: there, a failure is a line in the log.
        """
        inputs = self.package.inputs
        values = {
            tensor.name: zeros([1 if size == FREE else size for size in tensor.shape], tensor.dtype)
            for tensor in inputs
        }
        try:
            _check_shapes(self.package, self.runtime.run_tensors(values))
        except Exception as exc:
            problem = f"{self.package.model_file} fails on zeros: {exc}"
            if not any(FREE in tensor.shape for tensor in inputs):
                raise ModelPackageError(problem) from exc
            log.warning("%s (free sizes as 1; served all the same)", problem)


def _array(tensor: Tensor, value: object) -> NDArray[Any]:
    try:
        array = exact_tensor(value, tensor.dtype)
    except ValueError as exc:
        raise RequestError(ErrorCode.INVALID_REQUEST, f"inputs.{tensor.name} must be {tensor.dtype}: {exc}") from exc
    if not fits(tensor, array):
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"inputs.{tensor.name} must have the shape {tensor.shape}, got {array.shape}",
        )
    return array


def _check_shapes(package: ModelPackage, outputs: Mapping[str, NDArray[Any]]) -> None:
    for tensor in package.outputs:
        if not fits(tensor, outputs[tensor.name]):
            found = outputs[tensor.name].shape
            raise ValueError(f"output {tensor.name} must have the shape {tensor.shape}, got {found}")


def fits(tensor: Tensor, array: NDArray[Any]) -> bool:
    """Whether an array has the declared shape, whatever its free sizes are."""
    return array.ndim == len(tensor.shape) and all(
        wanted in (size, FREE) for size, wanted in zip(array.shape, tensor.shape, strict=True)
    )
