"""Inputs that wait are run together, where a model takes any number at once."""

import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_inference.models import runtime
from edge_inference.models.package import ModelPackage
from edge_inference.models.runtime import OnnxModel, Running

log = logging.getLogger(__name__)

#: Rows of one batch may differ from those of single runs by rounding: kernels add up in another order.
TOLERANCE = 1e-3


def load(package: ModelPackage, running: Running) -> OnnxModel:
    """Load a package's model as `runtime.load` does; its inputs are run together where that is asked for."""
    model = runtime.load(package, running)
    if running.batch == 1:
        return model
    return batched(model, package.model_input.shape, package.model_input.dtype, running.batch)


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
