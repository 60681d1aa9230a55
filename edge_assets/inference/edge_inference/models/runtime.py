"""What runs a model: the seam to an inference engine, ONNX Runtime behind it, in process, and batches of inputs."""

import contextlib
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_component import process
from edge_inference.models.integrity import reads_beside
from edge_inference.models.package import DTYPES, FREE, MODEL_FILE, ModelPackage, ModelPackageError, Tensor

log = logging.getLogger(__name__)
CPU = "cpu"
#: Accelerator to the execution providers that are tried, in their order, before the processor.
PROVIDERS: Mapping[str, tuple[str, ...]] = {
    CPU: (),
    "openvino": ("OpenVINOExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
_ON_CPU = "CPUExecutionProvider"
#: How ONNX Runtime speaks of weights in a file of their own.
EXTERNAL = "External file"
#: From here on an input is large; to shrink the arena after each run takes a small one a tenth longer.
LARGE_BYTES = 4 << 20
#: Of why an accelerator does not do: libraries tell it with the stack of their own calls.
REASON_CHARACTERS = 300
#: Rows of one batch may differ from those of single runs by rounding: kernels add up in another order.
TOLERANCE = 1e-3
#: Sessions whose last run was a large one.
_swollen: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class Running:
    """How a model is to be run.

    Args:
        threads: That work on one input.
        accelerator: Where it runs if it can, one of `PROVIDERS`.
        refused: Why it must run on the processor in spite of that; empty for no reason.
        batch: Inputs that may be run together.
    """

    threads: int = 1
    accelerator: str = CPU
    refused: str = ""
    batch: int = 1


ON_ONE_THREAD = Running()


class ModelRuntime(Protocol):
    """A loaded model."""

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the model once.

        Args:
            values: The input, in the shape and type that the package declares.

        Returns:
            The output, in the shape that the package declares.
        """
        ...

    def run_tensors(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a model with any number of inputs and outputs once.

        Args:
            values: Name of each input to its value.

        Returns:
            Name of each declared output to its value.
        """
        ...


#: Makes a runtime of a package whose files were verified; raises ModelPackageError where the model does not load, or is
#: not the one that the manifest describes.
RuntimeLoader = Callable[[ModelPackage], ModelRuntime]


class OnnxModel:
    """A model in a session of ONNX Runtime.

    Args:
        session: An `onnxruntime.InferenceSession`.
        input_name: Name of the first input.
        output_names: Names of the outputs.
        fallback: Why it does not run on the accelerator that was asked for; empty where it does, or none was.
    """

    def __init__(self, session: Any, input_name: str, output_names: Sequence[str], fallback: str = "") -> None:
        self.fallback = fallback
        self.input_name = input_name
        self.output_names = list(output_names)
        self.session = session

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the model once; see `ModelRuntime.run`."""
        return self.outputs_of(values)[0]

    def run_tensors(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a model with several inputs and outputs once; see `ModelRuntime.run_tensors`."""
        return dict(zip(self.output_names, run_session(self.session, self.output_names, values), strict=True))

    def outputs_of(self, values: NDArray[Any]) -> list[NDArray[Any]]:
        """Run a model with one input; gives its outputs in their order."""
        return run_session(self.session, self.output_names, {self.input_name: values})


def run_session(session: Any, outputs: list[str] | None, values: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a session once; what large tensors took is given back, where its arena would keep it for good.

    Args:
        session: An `onnxruntime.InferenceSession`.
        outputs: Names of those that are wanted; None for all.
        values: Name of each input to its value.

    Returns:
        The outputs, in their order.
    """
    large, after_large = sum(value.nbytes for value in values.values()) >= LARGE_BYTES, session in _swollen
    options = None
    if large or after_large:
        options = import_engine().RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    found: list[NDArray[Any]] = session.run(outputs, dict(values), options)
    # While a large output is handed over, its part of the arena and the message around it are in use: the next small
    # run gives them back. A small input may have a large one, too.
    if large or sum(getattr(value, "nbytes", 0) for value in found) >= LARGE_BYTES:
        _swollen.add(session)
    elif after_large:
        _swollen.discard(session)
        process.trim()
    return found


def import_engine() -> Any:
    """Import ONNX Runtime, with the first model: it takes 20 MB.

    Returns:
        The module `onnxruntime`.

    Raises:
        ImportError: The environment lacks it, or it is for another machine.
    """
    # Read by the library when it is loaded: from 1.29 on it reports usage to its vendor unless it is told not to.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


def prepare() -> None:
    """Import ONNX Runtime ahead of the first model; an error waits for that."""
    with contextlib.suppress(ImportError):
        import_engine()


def open_session(model_file: Path, contents: Mapping[str, bytes], running: Running = ON_ONE_THREAD) -> tuple[Any, str]:
    """Load a model out of the files that were verified; nothing is read from disk again.

    Args:
        model_file: Where it came from, for messages.
        contents: The package's files.
        running: How it is to be run.

    Returns:
        The `onnxruntime.InferenceSession`, and why it does not run where it was asked to; empty where it does.

    Raises:
        ModelPackageError: ONNX Runtime refuses the file, or the model reads files that are not in the package.
    """
    onnxruntime = import_engine()
    model = contents[MODEL_FILE]
    if reads_beside(model):
        raise ModelPackageError(
            f"{model_file} must keep the weights of branches, loops and functions in itself, got some in files of "
            "their own, which would be read unchecked: save it with them inside"
        )
    wanted = PROVIDERS[running.accelerator]
    reason = running.refused
    if wanted and not reason:
        there = [name for name in wanted if name in onnxruntime.get_available_providers()]
        reason = "" if there else f"this device's ONNX Runtime has no {' and no '.join(wanted)}"
        if there:
            try:
                session = _session(onnxruntime, model, contents, running, there)
            except Exception as exc:  # noqa: BLE001 - whatever an accelerator lacks, the processor has
                reason = " ".join(str(exc).split())[:REASON_CHARACTERS] or type(exc).__name__
            else:
                used = session.get_providers()[0]
                reason = "" if used == wanted[0] else f"{wanted[0]} does not start, it runs on {used}"
                if used != _ON_CPU:
                    return session, _told(model_file, running, reason)
    try:
        return _session(onnxruntime, model, contents, running, []), _told(model_file, running, reason)
    except Exception as exc:
        fix = (
            "; name the file of its weights in extras, with the path that the model has" if EXTERNAL in str(exc) else ""
        )
        raise ModelPackageError(f"{model_file} does not load: {exc}{fix}") from exc


def _told(model_file: Path, running: Running, reason: str) -> str:
    if reason:
        log.warning("%s does not run by %s: %s", model_file, running.accelerator, reason)
    return reason


def _session(
    onnxruntime: Any, model: bytes, contents: Mapping[str, bytes], running: Running, providers: Sequence[str]
) -> Any:
    options = onnxruntime.SessionOptions()
    # Always a number: left to itself, the runtime makes a thread for each core of the machine, and binds them to cores
    # that the process may not use.
    options.intra_op_num_threads = running.threads
    options.inter_op_num_threads = 1
    # Threads that wait for work must not keep a core busy meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised: once is enough
    # Named files are never looked for on disk, whether they are in the table or not; an empty table is none.
    options.add_external_initializers_from_files_in_memory(
        list(contents), list(contents.values()), [len(content) for content in contents.values()]
    )
    own: dict[str, dict[str, str]] = {
        "OpenVINOExecutionProvider": {"device_type": "CPU", "num_of_threads": str(running.threads)}
    }
    listed = [(name, own.get(name, {})) for name in providers]
    # Without its own way back to the processor, which is told on standard output only.
    return onnxruntime.InferenceSession(
        model, sess_options=options, providers=[*listed, _ON_CPU], enable_fallback=int(not providers)
    )


def load(package: ModelPackage, running: Running = ON_ONE_THREAD) -> OnnxModel:
    """Load a package's model; see `RuntimeLoader`. Its inputs are run together where that is asked for.

    Args:
        package: A verified package; one compiled for another runtime still holds the portable model, which is taken.
        running: How it is to be run.

    Returns:
        The loaded model.

    Raises:
        ModelPackageError: ONNX Runtime refuses the file, or its input or output is not what the manifest says.
    """
    session, fallback = open_session(package.model_file, package.contents, running)
    for tensor in package.inputs:
        _check("input", tensor, session.get_inputs(), package)
    for tensor in package.outputs:
        _check("output", tensor, session.get_outputs(), package)
    needed, declared = {tensor.name for tensor in session.get_inputs()}, {tensor.name for tensor in package.inputs}
    if missing := sorted(needed - declared):
        raise ModelPackageError(f"{package.model_file}: inputs must hold all that the model needs, {missing} lack")
    model = OnnxModel(session, package.model_input.name, [tensor.name for tensor in package.outputs], fallback)
    if running.batch == 1:
        return model
    return batched(model, package.model_input.shape, package.model_input.dtype, running.batch)


def _check(kind: str, declared: Tensor, found: list[Any], package: ModelPackage) -> None:
    tensors = {tensor.name: tensor for tensor in found}
    tensor = tensors.get(declared.name)
    if tensor is None:
        raise ModelPackageError(f"{package.model_file}: {kind} must be named {declared.name!r}, got {sorted(tensors)}")
    if tensor.type != DTYPES[declared.dtype]:
        fix = "" if tensor.type.startswith("tensor") else "; export it as a tensor (skl2onnx: zipmap=False)"
        raise ModelPackageError(
            f"{package.model_file}: {kind} {tensor.name} must be {declared.dtype}, got {tensor.type}{fix}"
        )
    # A size that is not a number is a free one, such as the batch. No size at all means a shape that is not known, or a
    # scalar: ONNX Runtime does not tell them apart, and the warm-up run decides. So it does of an output with a 1:
    # onnxmltools writes it for a batch of any size.
    shape = tuple(tensor.shape)
    fits = len(shape) == len(declared.shape) and all(
        not isinstance(size, int) or wanted in (size, FREE) or (kind == "output" and size == 1)
        for size, wanted in zip(shape, declared.shape, strict=True)
    )
    if shape and not fits:
        raise ModelPackageError(
            f"{package.model_file}: {kind} {tensor.name} must have the shape {declared.shape}, got {shape}"
        )


class _Waiting:
    """An input on its way."""

    def __init__(self, value: NDArray[Any]) -> None:
        self.value = value
        self.outputs: list[NDArray[Any]] | None = None
        self.error: Exception | None = None
        #: Set when it is done, or when it is this thread's turn to run what waits.
        self.turn = threading.Event()


class BatchedModel(OnnxModel):
    """A model whose inputs are joined while another run lasts; safe from any thread.

    Who comes while nobody runs, runs at once and alone: nothing waits for company. Who comes meanwhile waits; when the
    run ends, the first of those who wait runs all of them, up to a bound. Where a batch fails, each of its inputs is
    run by itself, so that the error of one is its own.

    Args:
        model: Runs them.
        most: Inputs of a batch.
    """

    def __init__(self, model: OnnxModel, most: int) -> None:
        super().__init__(model.session, model.input_name, model.output_names, model.fallback)
        self._most = most
        self._lock = threading.Lock()
        self._line: deque[_Waiting] = deque()
        self._busy = False
        #: Runs, and the inputs of them.
        self.runs = self.inputs = 0

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """Run the model once; see `ModelRuntime.run`."""
        return self._joined(values)[0]

    def run_tensors(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the model once; see `ModelRuntime.run_tensors`."""
        return dict(zip(self.output_names, self._joined(values[self.input_name]), strict=True))

    def _joined(self, value: NDArray[Any]) -> list[NDArray[Any]]:
        mine = _Waiting(value)
        with self._lock:
            self._line.append(mine)
            runs, self._busy = not self._busy, True
        if not runs:
            # Whoever runs sets it, whatever comes of the run.
            mine.turn.wait()
        if mine.outputs is None and mine.error is None:
            self._run_line()
        if mine.error is not None:
            raise mine.error
        if mine.outputs is None:
            raise RuntimeError("a run was interrupted")
        return mine.outputs

    def _run_line(self) -> None:
        """Run those at the head of the line, the caller's own first."""
        with self._lock:
            together = [self._line.popleft()]
            while (
                self._line
                and len(together) < self._most
                and self._line[0].value.shape == together[0].value.shape
                and self._line[0].value.dtype == together[0].value.dtype
            ):
                together.append(self._line.popleft())
        try:
            self._run(together)
        finally:
            with self._lock:
                self.runs += 1
                self.inputs += len(together)
                self._busy = bool(self._line)
                heir = self._line[0] if self._line else None
            for each in together[1:]:
                each.turn.set()
            if heir is not None:
                heir.turn.set()

    def _run(self, together: Sequence[_Waiting]) -> None:
        if len(together) > 1:
            try:
                found = self.outputs_of(np.concatenate([each.value for each in together]))
            except Exception:  # noqa: BLE001 - whose fault it is shows when each is run by itself
                log.debug("a batch of %d fails, each is run by itself", len(together))
            else:
                if all(len(output) == len(together) for output in found):
                    for place, each in enumerate(together):
                        each.outputs = [output[place : place + 1] for output in found]
                    return
        for each in together:
            try:
                each.outputs = self.outputs_of(each.value)
            except Exception as exc:  # noqa: BLE001 - raised in the thread that asked
                each.error = exc


def batched(model: OnnxModel, shape: Sequence[int], dtype: str, most: int) -> OnnxModel:
    """Let a model run inputs together, if it takes several and answers each as it does alone.

    Args:
        model: Loaded, with one input.
        shape: Of one input, as declared.
        dtype: Of it.
        most: Inputs of a batch.

    Returns:
        The model itself, with the reason in the log, where it does not.
    """
    problem = _obstacle(model, shape, dtype)
    if problem:
        log.warning("batch is without effect: %s", problem)
        return model
    return BatchedModel(model, most)


def _obstacle(model: OnnxModel, shape: Sequence[int], dtype: str) -> str:
    tensors = [*model.session.get_inputs(), *model.session.get_outputs()]
    named = {model.input_name, *model.output_names}
    if len(model.session.get_inputs()) != 1 or not shape or shape[0] != 1:
        return "it takes models with one input, whose first size is the batch"
    if fixed := [each.name for each in tensors if each.name in named and each.shape and isinstance(each.shape[0], int)]:
        return f"the batch of {', '.join(fixed)} is fixed: export the model with a free one"
    if dtype == "string":
        return "it takes models of numbers"
    one = np.zeros([max(size, 1) for size in shape], dtype)
    other = np.ones_like(one)
    try:
        alone = [model.outputs_of(one), model.outputs_of(other)]
        both = model.outputs_of(np.concatenate([one, other]))
    except Exception as exc:  # noqa: BLE001 - a model that serves single inputs goes on doing so
        return f"two inputs at once fail: {' '.join(str(exc).split())[:200]}"
    for place, found in enumerate(alone):
        for single, joined in zip(found, both, strict=True):
            row = joined[place : place + 1] if joined.ndim else None
            if row is None or row.shape != single.shape:
                return f"of two inputs it makes outputs of shape {joined.shape}, not a row each"
            numbers = single.dtype.kind == "f"
            if not (
                np.allclose(row, single, TOLERANCE, TOLERANCE, equal_nan=True) if numbers else (row == single).all()
            ):
                return "it answers an input otherwise in company"
    return ""
