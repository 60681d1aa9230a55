"""Inputs that wait are run together, and each gets its own answer."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edge_inference.models.runtime import BatchedModel, OnnxModel, batched, import_engine, run_session
from edge_inference.settings import parse
from tests.edge.file_bench import Bench
from tests.edge.local_device import configuration

LIMIT_S = 30


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def made(nodes: Sequence[Any], shape: Sequence[Any], out: Sequence[Any], constants: Sequence[Any] = ()) -> OnnxModel:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = import_engine().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return OnnxModel(session, "x", ["y"])


def doubling(batch: Any = "N") -> OnnxModel:
    return made([helper.make_node("Add", ["x", "x"], ["y"])], [batch, 3], [batch, 3])


def looking_up() -> OnnxModel:
    """Gives the row of a table; an index that is not there fails, and with it a batch."""
    table = onnx.numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "table")
    axis = onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")
    nodes = [
        helper.make_node("Squeeze", ["x", "axis"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["at"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "at"], ["y"]),
    ]
    return made(nodes, ["N", 1], ["N", 3], [table, axis])


class Gate:
    """A session whose first run waits until it may go on."""

    def __init__(self, session: Any) -> None:
        self._session, self.open = session, threading.Event()
        self.entered = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *given: Any) -> Any:
        self.entered.set()
        assert self.open.wait(LIMIT_S)
        return self._session.run(*given)


def all_at_once(model: OnnxModel, values: Sequence[NDArray[Any]], most: int) -> tuple[list[Any], BatchedModel]:
    """Run the first value, and while that lasts let the others come, in their order."""
    batch = BatchedModel(model, most)
    gate = Gate(model.session)
    batch.session = gate
    found: list[Any] = [None] * len(values)

    def run(place: int) -> None:
        try:
            found[place] = batch.run(values[place])
        except Exception as exc:  # noqa: BLE001 - looked at below
            found[place] = exc

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(values))]
    threads[0].start()
    assert gate.entered.wait(LIMIT_S)
    for number, thread in enumerate(threads[1:], start=1):
        thread.start()
        wait_for(lambda number=number: len(batch._line) == number)  # type: ignore[misc]
    gate.open.set()
    for thread in threads:
        thread.join(LIMIT_S)
    return found, batch


def test_inputs_that_wait_are_run_together_up_to_the_bound() -> None:
    values = [np.full((1, 3), number, np.float32) for number in range(8)]

    found, batch = all_at_once(doubling(), values, most=4)

    assert [output.tolist() for output in found] == [[[2.0 * number] * 3] for number in range(8)]
    # The first alone, as nobody waited; then four, then three.
    assert (batch.runs, batch.inputs) == (3, 8)


def test_an_input_that_fails_fails_alone() -> None:
    values = [np.full((1, 1), number, np.float32) for number in (0, 1, 99, 2, 3)]

    found, batch = all_at_once(looking_up(), values, most=8)

    assert [output[0][0] for place, output in enumerate(found) if place != 2] == [0, 3, 6, 9]
    assert "indices element out of data bounds" in str(found[2])
    assert batch.run(values[1]).tolist() == [[3, 4, 5]], "and the next is served"


def test_inputs_of_other_shapes_are_run_by_themselves() -> None:
    model = made([helper.make_node("Add", ["x", "x"], ["y"])], ["N", "M"], ["N", "M"])

    found, batch = all_at_once(model, [np.ones((1, size), np.float32) for size in (1, 2, 2, 3)], most=8)

    assert [output.shape for output in found] == [(1, 1), (1, 2), (1, 2), (1, 3)]
    assert batch.runs == 3


def flattening() -> OnnxModel:
    shape = onnx.numpy_helper.from_array(np.array([-1, 1], np.int64), "shape")
    return made([helper.make_node("Reshape", ["x", "shape"], ["y"])], ["N", 3], ["A", "B"], [shape])


def adding_up() -> OnnxModel:
    return made([helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)], ["N", 3], [])


def mixing() -> OnnxModel:
    axes = onnx.numpy_helper.from_array(np.array([0], np.int64), "axes")
    nodes = [helper.make_node("ReduceSum", ["x", "axes"], ["sum"]), helper.make_node("Add", ["x", "sum"], ["y"])]
    return made(nodes, ["N", 3], ["N", 3], [axes])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: doubling(1), "the batch of x, y is fixed: export the model with a free one"),
        (flattening, "of two inputs it makes outputs of shape (6, 1), not a row each"),
        (adding_up, "of two inputs it makes outputs of shape (), not a row each"),
        (mixing, "it answers an input otherwise in company"),
    ],
)
def test_a_model_that_takes_no_company_is_served_as_before(
    model: Callable[[], OnnxModel], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = model()

    assert batched(plain, [1, 3], "float32", 8) is plain

    assert [each.getMessage() for each in caplog.records] == [f"batch is without effect: {said}"]


def test_a_free_batch_is_taken_and_nothing_waits_for_company(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    model = batched(doubling(), [1, 3], "float32", 8)

    assert isinstance(model, BatchedModel)
    for number in range(3):
        assert model.run_tensors({"x": np.full((1, 3), number, np.float32)})["y"].tolist() == [[2.0 * number] * 3]
    assert (model.runs, model.inputs) == (3, 3)
    assert run_session(model.session, ["y"], {"x": np.ones((2, 3), np.float32)})[0].shape == (2, 3)
    assert not caplog.records


def test_as_many_are_on_their_way_as_may_be_run_together(tmp_path: Any) -> None:
    bench = Bench(tmp_path / "device")
    bench.endpoint.settings = parse(configuration(batch=8))["digits"]

    assert (bench.endpoint.running.batch, bench.endpoint._pipeline.parallel) == (8, 8)


def test_texts_are_served_as_before(caplog: pytest.LogCaptureFixture) -> None:
    text = helper.make_tensor_value_info("x", TensorProto.STRING, ["N", 3])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [text],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["N", 3])],
    )
    made_of = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = import_engine().InferenceSession(made_of.SerializeToString(), providers=["CPUExecutionProvider"])
    plain = OnnxModel(session, "x", ["y"])

    assert batched(plain, [1, 3], "string", 8) is plain

    assert [each.getMessage() for each in caplog.records] == ["batch is without effect: it takes models of numbers"]
