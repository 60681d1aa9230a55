"""Tables, raw tensors and pictures in every layout, on real ONNX models."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edge_inference.messages import ErrorCode, Request, RequestError, edge_manager, success
from edge_inference.models.package import ModelPackageError
from edge_inference.models.pictures import Preprocessing
from edge_inference.models.runtime import load
from edge_inference.models.store import Workload, load_workload
from tests.edge.model_folder import ROOT

MODELS = ROOT / "edge_assets" / "models"


def package(folder: Path, name: str, **changes: Any) -> Path:
    """A committed model folder as a device finds it."""
    folder.mkdir(parents=True)
    declaration = json.loads((MODELS / name / "model.json").read_text()) | changes
    named = [
        "model.onnx",
        declaration.get("samples", {}).get("file"),
        declaration.get("reference"),
        *declaration.get("extras", []),
    ]
    for file in filter(None, named):
        (folder / file).write_bytes((MODELS / name / file).read_bytes())
    return manifest(folder, declaration)


def manifest(folder: Path, declaration: dict[str, Any]) -> Path:
    files = {
        file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}
        for file in folder.iterdir()
    }
    content = declaration | {"version": "1.0.0", "runtime": "onnxruntime", "files": files}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


def adder(folder: Path, **changes: Any) -> Workload:
    """A model of raw tensors with two inputs, a free batch and an output of whole numbers."""
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Neg", ["a"], ["negative"])],
        "adder",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 2]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", 2]) for name in ("sum", "negative")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    declaration = {
        "name": "adder",
        "task": "tensors",
        "inputs": [{"name": name, "dtype": "int64", "shape": [-1, 2]} for name in "ab"],
        "outputs": [{"name": name, "dtype": "int64", "shape": [-1, 2]} for name in ("sum", "negative")],
    }
    return load_workload(manifest(folder, declaration | changes), load)


@pytest.fixture(scope="module")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    return load_workload(package(tmp_path_factory.mktemp("iris") / "package", "iris"), load)


def test_names_the_species_of_held_out_flowers(iris: Workload) -> None:
    with np.load(MODELS / "iris" / "samples.npz") as samples:
        rows, labels = samples["rows"], samples["labels"]

    by_index = [iris.predict(Request(None, index=index), 1).scores[0].label for index in range(len(rows))]
    by_features = [iris.predict(Request(None, features=row.tolist()), 1).scores[0].label for row in rows]

    assert by_index == by_features
    right = [answer == iris.package.labels[label] for answer, label in zip(by_index, labels, strict=True)]
    assert np.mean(right) >= 0.95


def test_takes_features_by_their_names_in_any_order(iris: Workload) -> None:
    named = {"petal_width": 0.2, "sepal_length": 5.1, "petal_length": 1.4, "sepal_width": 3.5}

    prediction = iris.predict(Request(None, features=named), 3)

    assert prediction.scores[0].label == "setosa"
    assert sum(score.probability for score in prediction.scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (Request("x", features=[1.0]), ErrorCode.INVALID_REQUEST, "features must have 4 values"),
        (Request("x", features={"a": 1.0}), ErrorCode.INVALID_REQUEST, "features must be exactly sepal_length"),
        (Request("x", index=45), ErrorCode.INDEX_OUT_OF_RANGE, "index must be from 0 to 44, got 45"),
        (Request("x", image=b""), ErrorCode.INVALID_REQUEST, "this model needs index or features, got image"),
        (Request("x"), ErrorCode.INVALID_REQUEST, "got nothing"),
    ],
)
def test_a_table_says_what_it_needs(iris: Workload, request_: Request, code: ErrorCode, text: str) -> None:
    with pytest.raises(RequestError, match=text) as caught:
        iris.predict(request_, 3)

    assert caught.value.code is code


def test_a_photograph_gets_five_of_a_thousand_labels_and_says_that_weights_are_random(tmp_path: Path) -> None:
    model = load_workload(package(tmp_path / "package", "image-classification"), load)
    picture = (MODELS / "image-classification" / "image.jpg").read_bytes()

    prediction = model.predict(Request(None, image=picture), 5)

    assert len(prediction.scores) == 5
    assert prediction.notice == "random weights: the labels mean nothing"
    result = json.loads(edge_manager("image-classification", prediction, 5, 0.3))
    assert set(result) == {"timestamp", "inference-type", "inference-description", "inference-results"}
    assert result["inference-type"] == "image-classification"
    assert result["inference-description"].startswith("Top 5 predictions with score 0.3 or above (random weights")
    assert all(each["Score"] >= 0.3 and each["Label"].startswith("class ") for each in result["inference-results"])
    answer = json.loads(success("id", "thing-1", "pictures", prediction, 1))
    assert answer["notice"] == prediction.notice


def test_runs_raw_tensors_with_any_batch(tmp_path: Path) -> None:
    model = adder(tmp_path / "package")
    inputs: dict[str, object] = {"a": [[1, 2], [3, 4], [5, 6]], "b": [[1, 1], [1, 1], [1, 1]]}

    prediction = model.predict(Request(None, inputs=inputs), 1)

    assert prediction.outputs == {"sum": [[2, 3], [4, 5], [6, 7]], "negative": [[-1, -2], [-3, -4], [-5, -6]]}
    assert json.loads(success("id", "thing-1", "adder", prediction, 1))["outputs"]["sum"][0] == [2, 3]


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"a": [[1, 2]]}, "inputs must be exactly a, b, got a"),
        ({"a": [[1, 2]], "b": [1, 2]}, r"inputs.b must have the shape \(-1, 2\), got \(2,\)"),
        ({"a": [[1, 2]], "b": [["x", "y"]]}, "inputs.b must be int64"),
        ({"a": [[1, 2]], "b": [[1], [1, 2]]}, "inputs.b must be int64"),
    ],
)
def test_raw_tensors_must_fit(tmp_path: Path, inputs: dict[str, object], text: str) -> None:
    with pytest.raises(RequestError, match=text):
        adder(tmp_path / "package").predict(Request(None, inputs=inputs), 1)


def test_tensors_that_do_not_fit_into_a_message_get_an_error(tmp_path: Path) -> None:
    model = adder(tmp_path / "package")
    rows: object = [[10**9, 10**9]] * 1000
    prediction = model.predict(Request(None, inputs={"a": rows, "b": rows}), 1)

    with pytest.raises(RequestError, match="ask for smaller tensors") as caught:
        success("id", "thing-1", "adder", prediction, 1)

    assert caught.value.code is ErrorCode.RESULT_TOO_LARGE


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "poetry"}, "task must be one of"),
        ({"inputs": []}, "inputs must hold at least one tensor"),
        ({"inputs": ["a"]}, "inputs must hold objects"),
        ({"inputs": [{"name": "a", "dtype": "text", "shape": [1]}]}, "inputs dtype must be"),
        ({"inputs": [{"name": "a", "dtype": "int64", "shape": [0, 2]}]}, "sizes of at least 1, or -1"),
        ({"outputs": [{"name": "sum", "dtype": "float32", "shape": [-1, 2]}]}, "output sum must be float32"),
        ({"inputs": [{"name": "a", "dtype": "int64", "shape": [-1, 2]}]}, r"all that the model needs, \['b'\] lack"),
    ],
)
def test_a_declaration_of_tensors_must_be_the_models(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelPackageError, match=text):
        adder(tmp_path / "package", **changes)


def test_a_table_must_have_as_many_features_as_inputs(tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match="one value a feature"):
        load_workload(package(tmp_path / "package", "iris", features=["one"]), load)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_order_and_layout_is_what_plain_numpy_makes(order: str, layout: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    made = Preprocessing(7, 5, "RGB", mean, std, order=order, layout=layout)

    ordered = pixels[..., ::-1] if order == "BGR" else pixels
    expected = ((ordered / 255 - mean) / std)[np.newaxis].astype(np.float32)
    expected = expected if layout == "NHWC" else expected.transpose(0, 3, 1, 2)

    for values in (pixels, (pixels / 255).astype(np.float32)):
        np.testing.assert_allclose(made.apply(values), expected, atol=1e-6)
    assert made.shape == expected.shape


@pytest.mark.parametrize("changes", [{"order": "GBR"}, {"layout": "CHW"}, {"resize": 6}])
def test_preprocessing_names_a_wrong_choice(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"preprocessing {next(iter(changes))} must be"):
        Preprocessing(7, 5, "RGB", (0, 0, 0), (1, 1, 1), **changes)
