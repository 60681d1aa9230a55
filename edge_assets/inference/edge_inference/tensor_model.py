"""Models whose inputs and outputs are handed through as they are."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.answer import Prediction
from edge_inference.declaration import FREE, ModelPackage, ModelPackageError, Tensor
from edge_inference.model_runtime import ModelRuntime
from edge_inference.request import ErrorCode, Request, RequestError
from edge_inference.tensor_values import tensor as exact_tensor
from edge_inference.tensor_values import zeros

log = logging.getLogger(__name__)


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
            self.runtime.run_tensors(values)
        except Exception as exc:
            problem = f"{self.package.model_file} fails on zeros: {exc}"
            if not any(FREE in tensor.shape for tensor in inputs):
                raise ModelPackageError(problem) from exc
            log.warning("%s (free sizes as 1; served all the same)", problem)


def _array(tensor: Tensor, value: object, request: Request) -> NDArray[Any]:
    try:
        array = exact_tensor(value, tensor.dtype)
    except ValueError as exc:
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
