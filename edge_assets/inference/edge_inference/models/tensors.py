"""Models whose inputs and outputs are handed through as they are, without losing or guessing anything on the way."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.messages import ErrorCode, Request, RequestError
from edge_inference.models.package import FREE, ModelPackage, ModelPackageError, Tensor
from edge_inference.models.prediction import Prediction
from edge_inference.models.runtime import ModelRuntime

_NUMBERS: tuple[str, set[type]] = ("numbers", {int, float})
#: What JSON must hold for NumPy's kinds of types; all others are numbers.
_WANTED: dict[str, tuple[str, set[type]]] = {"b": ("true or false", {bool}), "O": ("texts", {str})}
log = logging.getLogger(__name__)


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
            outputs = self.runtime.run_tensors(values)
            for tensor in self.package.outputs:
                if not fits(tensor, outputs[tensor.name]):
                    found = outputs[tensor.name].shape
                    raise ValueError(f"output {tensor.name} must have the shape {tensor.shape}, got {found}")
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


def fits(tensor: Tensor, array: NDArray[Any]) -> bool:
    """Whether an array has the declared shape, whatever its free sizes are."""
    return array.ndim == len(tensor.shape) and all(
        wanted in (size, FREE) for size, wanted in zip(array.shape, tensor.shape, strict=True)
    )
