"""What models of other people have that ours have not: types, shapes, names, outputs."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper
from PIL import Image

from edge_inference.messages import ErrorCode, Request, RequestError
from edge_inference.models.package import ModelPackageError
from edge_inference.models.store import Workload
from tests.edge.foreign_model import foreign_model, tensor

PIXELS = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)  # height 1, width 2


def picture() -> Request:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, "PNG")
    return Request("x", image=stream.getvalue())


def of_pictures(folder: Path, dtype: str, layout: str, **preprocessing: Any) -> Workload:
    """A model that gives its six input values back, as float32."""
    shape = [1, 1, 2, 3] if layout == "NHWC" else [1, 3, 1, 2]
    return foreign_model(
        folder,
        [("Flatten", ["image"], ["flat"], {}), ("Cast", ["flat"], ["logits"], {"to": 1})],
        [tensor("image", dtype, shape)],
        [tensor("logits", "float32", [1, 6])],
        task="image-classification",
        labels=list("abcdef"),
        preprocessing={"width": 2, "height": 1, "mode": "RGB", "layout": layout} | preprocessing,
    )


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
def test_a_picture_comes_in_the_type_that_the_model_takes(tmp_path: Path, dtype: str, layout: str, order: str) -> None:
    model = of_pictures(tmp_path / "package", dtype, layout, order=order)
    ordered = PIXELS[..., ::-1] if order == "BGR" else PIXELS
    values = (ordered if layout == "NHWC" else ordered.transpose(2, 0, 1)).ravel().astype(float)
    powers = np.exp((values if dtype == "uint8" else values / 255) - values.max())

    scores = model.predict(picture(), 6).scores

    found = {score.label: score.probability for score in scores}
    np.testing.assert_allclose([found[label] for label in "abcdef"], powers / powers.sum(), atol=1e-3)


def of_rows(folder: Path, output: dict[str, Any], labels: list[str], dtype: str = "float32", **changes: Any) -> Any:
    """A model that gives as many of its three features back as there are in its output."""
    values = math.prod(output["shape"])
    return foreign_model(
        folder,
        [
            ("Cast", ["row"], ["cast"], {"to": {"float32": 1, "float64": 11, "float16": 10}[output["dtype"]]}),
            ("Slice", ["cast", "from", "to", "axis"], ["some"], {}),
            ("Reshape", ["some", "shape"], [output["name"]], {}),
        ],
        [tensor("row", dtype, [1, 3])],
        [output],
        [
            numpy_helper.from_array(np.array(each, np.int64), name)
            for name, each in {"from": [0], "to": [values], "axis": [1], "shape": output["shape"]}.items()
        ],
        task="tabular-classification",
        features=["a", "b", "c"],
        labels=labels,
        **changes,
    )


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 3, 1, 1), (1, 1, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_an_output_may_have_any_shape_of_one_value_a_label(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    model = of_rows(tmp_path / "package", tensor("odd name/:0", dtype, shape), ["x", "y", "z"])

    scores = model.predict(Request(None, features=[1.0, 3.0, 2.0]), 3).scores

    assert [score.label for score in scores] == ["y", "z", "x"]
    np.testing.assert_allclose([score.probability for score in scores], [0.665, 0.245, 0.09], atol=1e-3)


@pytest.mark.parametrize(("probabilities", "value", "expected"), [(False, 2.0, 0.8808), (True, 0.75, 0.75)])
def test_one_value_is_the_second_of_two_labels(
    tmp_path: Path, probabilities: bool, value: float, expected: float
) -> None:
    model = of_rows(tmp_path / "package", tensor("y", "float32", (1, 1)), ["bad", "good"], probabilities=probabilities)

    scores = model.predict(Request(None, features=[value, 0.0, 0.0]), 2).scores

    assert [score.label for score in scores] == ["good", "bad"]
    np.testing.assert_allclose([score.probability for score in scores], [expected, 1 - expected], atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "labels"), [((1, 2), ["a", "b", "c"]), ((1, 1), ["a", "b", "c"]), ((1, 2), ["a"]), ((1, 2), [])]
)
def test_an_output_of_another_number_of_values_is_refused(
    tmp_path: Path, shape: tuple[int, ...], labels: list[str]
) -> None:
    with pytest.raises(ModelPackageError, match=rf"one value a label.* for {len(labels)} labels"):
        of_rows(tmp_path / "package", tensor("y", "float32", shape), labels)


#: Reshapes a product to a target that is computed from the input, so that nothing before a run tells its rank.
COMPUTED = [
    ("MatMul", ["x", "matrix"], ["product"], {}),
    ("ReduceMax", ["x"], ["largest"], {"keepdims": 0}),
    ("IsNaN", ["largest"], ["lost"], {}),
    ("Not", ["lost"], ["kept"], {}),
    ("Unsqueeze", ["kept", "axis"], ["one"], {}),
    ("Concat", ["one", "one"], ["both"], {"axis": 0}),
    ("Compress", ["sizes", "both"], ["target"], {}),
    ("Reshape", ["product", "target"], ["y"], {}),
]


def of_unknown_rank(folder: Path, columns: int, shape: tuple[int, ...], *, unsaid: str, **declaration: Any) -> Workload:
    """The first columns of a row of four, without the shape of an input or of the output in the graph."""
    constants = {
        "matrix": np.eye(4, columns, dtype=np.float32),
        "axis": np.array([0]),
        "sizes": np.array([1, columns]),
    }
    return foreign_model(
        folder,
        COMPUTED if unsaid == "y" else [("MatMul", ["x", "matrix"], ["y"], {})],
        [tensor("x", "float32", [1, 4])],
        [tensor("y", "float32", shape)],
        [numpy_helper.from_array(each, name) for name, each in constants.items() if unsaid == "y" or name == "matrix"],
        unsaid=("x", "y") if unsaid == "x" else ("y",),
        **declaration,
    )


@pytest.mark.parametrize("unsaid", ["x", "y"])
def test_a_tensor_whose_shape_the_graph_does_not_say_is_what_the_model_makes_of_it(tmp_path: Path, unsaid: str) -> None:
    table = {"task": "tabular-classification", "features": list("abcd"), "labels": list("pqr")}
    classifier = of_unknown_rank(tmp_path / "table", 3, (1, 3), unsaid=unsaid, **table)
    tensors = of_unknown_rank(tmp_path / "tensors", 3, (1, 3), unsaid=unsaid, task="tensors")

    scores = classifier.predict(Request(None, features=[1.0, 2.0, 3.0, 4.0]), 3).scores
    outputs = tensors.predict(Request(None, inputs={"x": [[1.0, 2.0, 3.0, 4.0]]}), 1).outputs

    assert [score.label for score in scores] == ["r", "q", "p"]
    assert outputs == {"y": [[1.0, 2.0, 3.0]]}


@pytest.mark.parametrize("unsaid", ["x", "y"])
def test_a_shape_that_the_graph_does_not_say_and_the_declaration_says_wrong_is_refused(
    tmp_path: Path, unsaid: str
) -> None:
    table = {"task": "tabular-classification", "features": list("abcd"), "labels": list("pq")}

    with pytest.raises(ModelPackageError, match=r"values of shape \(1, 2\), got \(1, 3\)"):
        of_unknown_rank(tmp_path / "table", 3, (1, 2), unsaid=unsaid, **table)
    with pytest.raises(ModelPackageError, match=r"output y must have the shape \(1, 2\), got \(1, 3\)"):
        of_unknown_rank(tmp_path / "tensors", 3, (1, 2), unsaid=unsaid, task="tensors")


def test_an_output_that_the_graph_calls_one_value_is_what_the_model_makes_of_it(tmp_path: Path) -> None:
    """As onnxmltools writes the label of LightGBM's models: [1], whatever the batch."""
    arguments: dict[str, Any] = {
        "nodes": [("ReduceMax", ["x"], ["label"], {"axes": [1], "keepdims": 0})],
        "inputs": [tensor("x", "float32", (3, 2))],
        "said": {"x": (-1, 2), "label": (1,)},
        "task": "tensors",
    }

    workload = foreign_model(tmp_path / "a", outputs=[tensor("label", "float32", (3,))], **arguments)

    found = workload.predict(Request(None, inputs={"x": [[1.0, 2.0], [5.0, 3.0], [0.0, 0.5]]}), 1).outputs
    assert found == {"label": [2.0, 5.0, 0.5]}
    with pytest.raises(ModelPackageError, match=r"output label must have the shape \(4,\), got \(3,\)"):
        foreign_model(tmp_path / "b", outputs=[tensor("label", "float32", (4,))], **arguments)


def test_samples_and_rows_in_another_byte_order_or_layout_are_the_same_values(tmp_path: Path) -> None:
    rows = np.array([[1, 3, 2], [3, 2, 1]], np.float32)
    for name, stored in {
        "native": rows,
        "big-endian": rows.astype(">f4"),
        "columns first": np.asfortranarray(rows),
        "big-endian float64": rows.astype(">f8"),
        "big-endian whole": rows.astype(">i2"),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "samples.npz", rows=stored)
        model = of_rows(
            folder, tensor("y", "float32", (1, 3)), ["x", "y", "z"], samples={"file": "samples.npz", "maximum": 1}
        )

        labels = [model.predict(Request(None, index=index), 1).scores[0].label for index in (0, 1)]

        assert labels == ["y", "x"], name


def test_a_table_of_whole_numbers_takes_no_fraction(tmp_path: Path) -> None:
    model = of_rows(tmp_path / "package", tensor("y", "float32", (1, 3)), ["x", "y", "z"], dtype="int64")

    assert model.predict(Request(None, features=[1, 2.0, 3]), 1).scores[0].label == "z"
    with pytest.raises(RequestError, match=r"features must be int64: 5\.1 has no place in it") as caught:
        model.predict(Request("x", features=[1, 5.1, 3]), 1)
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def identity(folder: Path, dtype: str) -> Workload:
    return foreign_model(
        folder,
        [("Identity", ["serving_default/in put:0"], ["out"], {})],
        [tensor("serving_default/in put:0", dtype, [-1])],
        [tensor("out", dtype, [-1])],
        task="tensors",
    )


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("string", ["a", "日本", ""]), ("bool", [True, False]), ("float16", [0.5]), ("int64", [2**62]), ("string", [])],
)
def test_raw_tensors_come_back_as_they_were(tmp_path: Path, dtype: str, values: list[Any]) -> None:
    request = Request(None, inputs={"serving_default/in put:0": values})

    assert identity(tmp_path / "package", dtype).predict(request, 1).outputs == {"out": values}


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        ("int64", [1.5], "1.5 has no place in it"),
        ("uint8", [300], "a number has no place in it"),
        ("float16", [1e6], "1000000.0 has no place in it"),
        ("int32", [math.inf], "a number has no place in it"),
        ("float32", ["5"], "expected numbers in lists of equal length, got str"),
        ("float32", [True], "got bool"),
        ("float32", [None], "got NoneType"),
        ("float32", [[1], [1, 2]], "got list"),
        ("string", [5], "expected texts in lists of equal length, got int"),
        ("bool", [1], "expected true or false"),
    ],
)
def test_nothing_is_lost_or_guessed_in_raw_tensors(tmp_path: Path, dtype: str, values: list[Any], text: str) -> None:
    with pytest.raises(RequestError, match=f"inputs.serving_default/in put:0 must be {dtype}: .*{text}"):
        identity(tmp_path / "package", dtype).predict(Request(None, inputs={"serving_default/in put:0": values}), 1)


def test_an_output_that_is_no_number_is_an_error_that_names_it(tmp_path: Path) -> None:
    shapes = [tensor("x", "float32", [-1])], [tensor("logarithm", "float32", [-1])]
    model = foreign_model(tmp_path / "package", [("Log", ["x"], ["logarithm"], {})], *shapes, task="tensors")

    with pytest.raises(ValueError, match="output logarithm must be finite, got NaN or infinity"):
        model.predict(Request(None, inputs={"x": [1.0, 0.0]}), 1)


def test_a_model_that_cannot_take_a_free_size_of_1_is_served(tmp_path: Path, caplog: Any) -> None:
    weights = numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "weights")
    shapes = [tensor("x", "float32", [1, 1, -1, -1])], [tensor("y", "float32", [1, 1, -1, -1])]
    nodes: list[Any] = [("Conv", ["x", "weights"], ["y"], {})]
    model = foreign_model(tmp_path / "package", nodes, *shapes, [weights], task="tensors")

    assert "fails on zeros" in caplog.text
    assert model.predict(Request(None, inputs={"x": [[[[1] * 3] * 3]]}), 1).outputs == {"y": [[[[9.0]]]]}


def test_a_model_that_fails_on_zeros_is_warmed_by_its_samples(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    shapes = [tensor("row", "float32", [1, 2])], [tensor("y", "float32", [1, 2])]
    declaration: Any = {"task": "tabular-classification", "features": ["a", "b"], "labels": ["x", "y"]}

    with pytest.raises(ModelPackageError, match="got NaN or infinity on a row of zeros, add samples if it cannot"):
        foreign_model(folder, [("Div", ["row", "row"], ["y"], {})], *shapes, **declaration)
    np.savez(folder / "samples.npz", rows=np.ones((1, 2)))
    declaration["samples"] = {"file": "samples.npz"}
    model = foreign_model(folder, [("Div", ["row", "row"], ["y"], {})], *shapes, **declaration)

    assert model.predict(Request(None, index=0), 1).scores[0].probability == 0.5
