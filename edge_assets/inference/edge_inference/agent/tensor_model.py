"""A model as the agent serves it: named tensors in, named tensors out, of any number and type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference import onnx_runtime
from edge_inference.agent.agent_error import AgentError, Status
from edge_inference.model_package import MODEL_FILE, ModelPackageError, verified_manifest
from edge_inference.signature import SigningKey

#: Element types of ONNX Runtime that the agent's protocol knows.
TYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int16)": np.dtype(np.int16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        name: Its name in the graph.
        dtype: Its element type.
        shape: Its sizes; None for one that may change from call to call, such as the batch.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def fits(self, shape: Sequence[int]) -> bool:
        """Tell whether a tensor of this shape may be it."""
        return len(shape) == len(self.shape) and all(
            own is None or own == size for own, size in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class TensorModel:
    """A model in memory.

    Args:
        folder: Its unpacked package.
        session: An `onnxruntime.InferenceSession`.
        inputs: In the graph's order.
        outputs: In the graph's order.
    """

    folder: Path
    session: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of_session(cls, folder: Path, session: Any) -> "TensorModel":
        """Describe a session.

        Raises:
            AgentError: FAILED_PRECONDITION: a tensor has a type that the protocol cannot carry.
        """
        return cls(folder, session, _specs(session.get_inputs()), _specs(session.get_outputs()))

    def run(self, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the model once.

        Args:
            values: Input name to tensor, each of its input's type and of a shape that fits.

        Returns:
            The outputs, in their order.

        Raises:
            AgentError: INVALID_ARGUMENT: the model refuses the shapes together; RESOURCE_EXHAUSTED: no memory is left;
                INTERNAL: it fails.
        """
        try:
            outputs: list[NDArray[Any]] = self.session.run(None, dict(values))
        except Exception as exc:
            raise AgentError(_status(exc), f"the model fails: {exc}") from exc
        return outputs


def load(folder: Path, key: SigningKey | None) -> TensorModel:
    """Verify and load a package.

    Args:
        folder: The unpacked package.
        key: Must have signed it; None leaves it at the digests.

    Returns:
        The model.

    Raises:
        AgentError: FAILED_PRECONDITION: the package, its signature or its model is refused; RESOURCE_EXHAUSTED.
    """
    try:
        verified_manifest(folder, key)
        return TensorModel.of_session(folder, onnx_runtime.open_session(folder / MODEL_FILE))
    except ModelPackageError as exc:
        cause = exc.__cause__
        exhausted = cause is not None and _status(cause) is Status.RESOURCE_EXHAUSTED
        raise AgentError(Status.RESOURCE_EXHAUSTED if exhausted else Status.FAILED_PRECONDITION, str(exc)) from exc


def _specs(tensors: Sequence[Any]) -> tuple[TensorSpec, ...]:
    for tensor in tensors:
        if tensor.type not in TYPES:
            raise AgentError(
                Status.FAILED_PRECONDITION,
                f"{tensor.name} must have one of the types {', '.join(TYPES)}, got {tensor.type}",
            )
    return tuple(
        TensorSpec(
            tensor.name,
            TYPES[tensor.type],
            tuple(size if isinstance(size, int) and size >= 0 else None for size in tensor.shape),
        )
        for tensor in tensors
    )


def _status(error: BaseException) -> Status:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
        return Status.RESOURCE_EXHAUSTED
    # Named after the library's own codes; the classes live in a private module of it.
    return Status.INVALID_ARGUMENT if type(error).__name__ == "InvalidArgument" else Status.INTERNAL
