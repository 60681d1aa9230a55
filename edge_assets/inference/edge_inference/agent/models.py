"""The models that the agent's clients see: those that clients loaded, and those that the device serves anyway."""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_component.process import free_bytes
from edge_inference.agent import AgentError, Status
from edge_inference.models import runtime
from edge_inference.models.integrity import SigningKey, read_file
from edge_inference.models.package import MANIFEST, MEMORY_FACTOR, MODEL_FILE, ModelPackageError, declared, verified

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
NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
NAME_CHARACTERS = 255
POINTER = "current"
POINTER_BYTES = 4096


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        name: Its name in the graph.
        dtype: Its element type.
        shape: Its sizes; None for one that may change from call to call, such as the batch; None for all of them where
            the graph does not say, or has a scalar, which ONNX Runtime does not tell apart.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...] | None


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
            return runtime.run_session(self.session, None, values)
        except Exception as exc:
            raise AgentError(_status(exc), f"the model fails: {exc}") from exc


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
        _manifest, contents = verified(folder, key)
        session, _ = runtime.open_session(folder / MODEL_FILE, contents)
        return TensorModel.of_session(folder, session)
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
            tuple(size if isinstance(size, int) and size >= 0 else None for size in tensor.shape) or None,
        )
        for tensor in tensors
    )


def _status(error: BaseException) -> Status:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error):
        return Status.RESOURCE_EXHAUSTED
    # Named after the library's own codes; the classes live in a private module of it.
    return Status.INVALID_ARGUMENT if type(error).__name__ == "InvalidArgument" else Status.INTERNAL


class ModelRegistry:
    """Models by name; safe for any thread.

    A model that the device serves is there from the start under its name. A client may unload it: then it is gone for
    the agent's clients, while the device goes on serving it.

    Args:
        served: The models that the device serves now, by name.
        load: Verifies and loads an unpacked package.
        max_models: Models that clients may load.
        memory: Bytes that are free.
    """

    def __init__(
        self,
        served: Callable[[], Mapping[str, TensorModel]],
        load: Callable[[Path], TensorModel],
        max_models: int,
        memory: Callable[[], int] = free_bytes,
    ) -> None:
        self._served = served
        self._load = load
        self._max_models = max_models
        self._memory = memory
        self._lock = threading.Lock()
        self._loaded: dict[str, TensorModel | None] = {}
        self._hidden: set[str] = set()

    def models(self) -> dict[str, TensorModel]:
        """All models, by name."""
        served = self._served()
        with self._lock:
            visible = {name: model for name, model in served.items() if name not in self._hidden}
            return {**visible, **{name: model for name, model in self._loaded.items() if model is not None}}

    def model(self, name: str) -> TensorModel:
        """Find a model.

        Raises:
            AgentError: NOT_FOUND.
        """
        try:
            return self.models()[name]
        except KeyError:
            raise AgentError(Status.NOT_FOUND, f"model {_shown(name)} is not loaded") from None

    def load(self, url: str, name: str) -> TensorModel:
        """Load a package under a name.

        Args:
            url: Absolute path of an unpacked package, or of a model component's work folder.
            name: The client's choice.

        Returns:
            The model.

        Raises:
            AgentError: INVALID_ARGUMENT: the name is none; ALREADY_EXISTS; NOT_FOUND: there is no package;
                RESOURCE_EXHAUSTED: too many models, or too little memory; FAILED_PRECONDITION: the package is refused.
        """
        if len(name) > NAME_CHARACTERS or not NAME.fullmatch(name):
            raise AgentError(
                Status.INVALID_ARGUMENT,
                f"a model's name must be letters and digits with '-' between them, got {_shown(name)}",
            )
        self._reserve(name)
        model = None
        try:
            folder = _package_folder(url)
            model = self._shared(folder) or self._load_anew(folder)
        finally:
            with self._lock:
                if model is None:
                    del self._loaded[name]
                else:
                    self._loaded[name] = model
        return model

    def unload(self, name: str) -> None:
        """Forget a model.

        Raises:
            AgentError: NOT_FOUND.
        """
        self.model(name)
        with self._lock:
            if self._loaded.pop(name, None) is None:
                self._hidden.add(name)

    def _reserve(self, name: str) -> None:
        existing = self.models()
        with self._lock:
            if name in existing or name in self._loaded:
                raise AgentError(Status.ALREADY_EXISTS, f"model {name} is loaded already: unload it first")
            if len(self._loaded) >= self._max_models:
                raise AgentError(
                    Status.RESOURCE_EXHAUSTED, f"at most {self._max_models} models may be loaded: unload one first"
                )
            self._loaded[name] = None

    def _shared(self, folder: Path) -> TensorModel | None:
        """The same package may be in memory already: one copy is enough, and it was verified."""
        return next((model for model in self.models().values() if model.folder == folder), None)

    def _load_anew(self, folder: Path) -> TensorModel:
        # All files: weights may lie in files of their own.
        needed, free = declared(folder)[1] * MEMORY_FACTOR, self._memory()
        if needed > free:
            raise AgentError(Status.RESOURCE_EXHAUSTED, f"the model needs about {needed} bytes, {free} are free")
        return self._load(folder)


def _package_folder(url: str) -> Path:
    folder = Path(url)
    try:
        if folder.is_absolute() and not (folder / MANIFEST).exists():
            folder = Path(read_file(folder / POINTER, POINTER_BYTES)[:POINTER_BYTES].decode(errors="replace").strip())
        if folder.is_absolute() and (folder / MANIFEST).is_file() and (folder / MODEL_FILE).is_file():
            return folder.resolve()
    except (OSError, ValueError):
        pass
    raise AgentError(
        Status.NOT_FOUND,
        f"url must be the absolute path of a folder with {MANIFEST} and {MODEL_FILE}, got {_shown(url)}",
    )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:100]}…")
