"""Models whose inputs and outputs are handed through as they are."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.answer import Prediction
from edge_inference.declaration import FREE, ModelPackage, ModelPackageError, Tensor
from edge_inference.model_runtime import ModelRuntime
from edge_inference.request import ErrorCode, Request, RequestError


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
                request.request_id,
            )
        values = {name: _array(wanted[name], given[name], request) for name in wanted}
        outputs = self.runtime.run_tensors(values)
        return Prediction(
            self.package.version,
            outputs={name: value.tolist() for name, value in outputs.items()},
            notice=self.package.notice,
        )

    def warm_up(self) -> None:
        """Run the model on zeros, free sizes as 1; see `Workload.warm_up`."""
        zeros = {
            tensor.name: np.zeros([1 if size == FREE else size for size in tensor.shape], tensor.dtype)
            for tensor in self.package.inputs
        }
        try:
            self.runtime.run_tensors(zeros)
        except Exception as exc:
            raise ModelPackageError(f"{self.package.model_file} fails on zeros: {exc}") from exc


def _array(tensor: Tensor, value: object, request: Request) -> NDArray[Any]:
    try:
        array = np.asarray(value, dtype=tensor.dtype)
    except (ValueError, TypeError, OverflowError) as exc:
        raise RequestError(
            ErrorCode.INVALID_REQUEST, f"inputs.{tensor.name} must be {tensor.dtype}: {exc}", request.request_id
        ) from exc
    fits = array.ndim == len(tensor.shape) and all(
        wanted in (size, FREE) for size, wanted in zip(array.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise RequestError(
            ErrorCode.INVALID_REQUEST,
            f"inputs.{tensor.name} must have the shape {tensor.shape}, got {array.shape}",
            request.request_id,
        )
    return array
