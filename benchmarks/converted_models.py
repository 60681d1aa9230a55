"""Common models from their converters, run as a device does and compared with the library's own prediction.

    cd benchmarks && ../.tools/bin/uv run --no-project --with-requirements converters.txt converted_models.py

The converters are in no environment of the project. Each model becomes a folder as docs/workloads.md has it, passes
`python -m tools.model check`, and answers forty rows. Exit code 1 if a row differs by more than 1e-5, or a model does
not convert or load, and KNOWN does not name it.
"""

import contextlib
import io
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "constructs"), str(ROOT / "edge_assets" / "inference")]

import numpy as np

from edge_constructs.model_runtime import check_model
from edge_constructs.model_source import ModelSource
from edge_inference.messages import Request, parse
from tools import model as model_tool
from tools.model_folder import load, package

TOLERANCE = 1e-5
ROWS = 40
#: What does not work, or not to the last digit, and why.
KNOWN = {
    "HistGradientBoostingClassifier": "does not convert with protobuf 7: convert with protobuf below 7",
    "DecisionTreeClassifier, float64 sample": "refused, with the fix: convert with a float32 sample",
    "KNeighborsRegressor": "rows at equal distance: float32 takes other neighbours than the library's float64",
}
Made = tuple[bytes, dict[str, Any], list[dict[str, Any]], np.ndarray[Any, Any]]


def table(onnx: bytes, labels: list[str], width: int, output: str, rows: Any, expected: Any, name: str = "X") -> Made:
    """A classifier of a table: its model, declaration, requests and what the library says."""
    declaration = {
        "task": "tabular-classification",
        "inputs": [{"name": name, "dtype": "float32", "shape": [1, width]}],
        "outputs": [{"name": output, "dtype": "float32", "shape": [1, len(labels)]}],
        "labels": labels,
        "features": [f"f{place}" for place in range(width)],
        "probabilities": True,
    }
    return onnx, declaration, [{"features": [float(value) for value in row]} for row in rows], np.asarray(expected)


def tensors(onnx: bytes, inputs: Any, output: dict[str, Any], rows: list[dict[str, Any]], expected: Any) -> Made:
    """A model of raw tensors."""
    declaration = {"task": "tensors", "inputs": inputs, "outputs": [output]}
    return onnx, declaration, [{"inputs": row} for row in rows], np.asarray(expected)


def scikit_learn() -> Iterator[tuple[str, Callable[[], Made]]]:
    """Classifiers and regressors by skl2onnx."""
    from skl2onnx import to_onnx
    from sklearn import (
        ensemble,
        linear_model,
        naive_bayes,
        neighbors,
        neural_network,
        pipeline,
        preprocessing,
        svm,
        tree,
    )
    from sklearn.datasets import load_iris

    rows, labels = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    asked = rows[:: len(rows) // ROWS][:ROWS]
    classifiers = [
        tree.DecisionTreeClassifier(max_depth=4, random_state=0),
        ensemble.RandomForestClassifier(20, random_state=0),
        ensemble.ExtraTreesClassifier(20, random_state=0),
        ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0),
        ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0),
        linear_model.LogisticRegression(max_iter=500),
        svm.SVC(probability=True, random_state=0),
        neighbors.KNeighborsClassifier(5),
        neural_network.MLPClassifier(max_iter=300, random_state=0),
        naive_bayes.GaussianNB(),
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()),
    ]
    for model in classifiers:

        def classify(model: Any = model) -> Made:
            model.fit(rows, labels)
            onnx = to_onnx(model, rows[:1], options={"zipmap": False}).SerializeToString()
            names = ["setosa", "versicolor", "virginica"]
            return table(onnx, names, 4, "probabilities", asked, model.predict_proba(asked))

        yield type(model).__name__ if not hasattr(model, "steps") else "pipeline of scaler and regression", classify
    regressors = [
        tree.DecisionTreeRegressor(max_depth=4, random_state=0),
        ensemble.RandomForestRegressor(20, random_state=0),
        linear_model.LinearRegression(),
        svm.SVR(),
        neighbors.KNeighborsRegressor(5),
    ]
    for model in regressors:

        def regress(model: Any = model) -> Made:
            model.fit(rows[:, :3], rows[:, 3])
            onnx = to_onnx(model, rows[:1, :3]).SerializeToString()
            given = [{"name": "X", "dtype": "float32", "shape": [-1, 3]}]
            output = {"name": "variable", "dtype": "float32", "shape": [-1, 1]}
            asked_rows = [{"X": [row.tolist()]} for row in asked[:, :3]]
            return tensors(onnx, given, output, asked_rows, model.predict(asked[:, :3]).reshape(-1, 1, 1))

        yield type(model).__name__, regress

    def text_columns() -> Made:
        import pandas
        from skl2onnx import convert_sklearn
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType
        from sklearn.compose import ColumnTransformer

        frame = pandas.DataFrame({"colour": ["red", "green", "blue", "red"] * 10, "size": np.linspace(0, 1, 40)})
        wanted = (frame["colour"] == "red").astype(int)
        parts = [("one", preprocessing.OneHotEncoder(handle_unknown="ignore"), ["colour"])]
        prepared = ColumnTransformer([*parts, ("scale", preprocessing.StandardScaler(), ["size"])])
        model = pipeline.make_pipeline(prepared, linear_model.LogisticRegression()).fit(frame, wanted)
        types = [("colour", StringTensorType([None, 1])), ("size", FloatTensorType([None, 1]))]
        onnx = convert_sklearn(model, initial_types=types, options={"zipmap": False}).SerializeToString()
        given = [
            {"name": "colour", "dtype": "string", "shape": [-1, 1]},
            {"name": "size", "dtype": "float32", "shape": [-1, 1]},
        ]
        output = {"name": "probabilities", "dtype": "float32", "shape": [-1, 2]}
        frame["size"] = frame["size"].astype(np.float32)
        asked_rows = [{"colour": [[colour]], "size": [[float(size)]]} for colour, size in frame.itertuples(index=False)]
        return tensors(onnx, given, output, asked_rows, model.predict_proba(frame).reshape(-1, 1, 2))

    yield "pipeline with a text column", text_columns

    def doubles() -> Made:
        model = tree.DecisionTreeClassifier(max_depth=4, random_state=0).fit(rows, labels)
        onnx = to_onnx(model, rows[:1].astype(np.float64), options={"zipmap": False}).SerializeToString()
        return table(onnx, ["a", "b", "c"], 4, "probabilities", asked, model.predict_proba(asked))

    yield "DecisionTreeClassifier, float64 sample", doubles


def boosting() -> Iterator[tuple[str, Callable[[], Made]]]:
    """LightGBM and XGBoost by onnxmltools."""
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from sklearn.datasets import load_iris

    rows, labels = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    asked = rows[:: len(rows) // ROWS][:ROWS]

    def lightgbm() -> Made:
        import lightgbm as library

        model = library.LGBMClassifier(n_estimators=10, verbose=-1).fit(rows, labels)
        onnx = convert_lightgbm(model, initial_types=[("X", FloatTensorType([None, 4]))], zipmap=False)
        return table(onnx.SerializeToString(), ["a", "b", "c"], 4, "probabilities", asked, model.predict_proba(asked))

    def lightgbm_label() -> Made:
        import lightgbm as library

        model = library.LGBMClassifier(n_estimators=10, verbose=-1).fit(rows, labels)
        onnx = convert_lightgbm(model, initial_types=[("X", FloatTensorType([None, 4]))], zipmap=False)
        given = [{"name": "X", "dtype": "float32", "shape": [5, 4]}]
        output = {"name": "label", "dtype": "int64", "shape": [5]}
        batches = asked.reshape(-1, 5, 4)
        expected = model.predict(asked).reshape(-1, 5)
        return tensors(onnx.SerializeToString(), given, output, [{"X": batch.tolist()} for batch in batches], expected)

    def xgboost() -> Made:
        import xgboost as library

        model = library.XGBClassifier(n_estimators=10).fit(rows, labels)
        onnx = convert_xgboost(model, initial_types=[("X", FloatTensorType([None, 4]))])
        return table(onnx.SerializeToString(), ["a", "b", "c"], 4, "probabilities", asked, model.predict_proba(asked))

    yield "LightGBM classifier", lightgbm
    yield "LightGBM label, a batch of five", lightgbm_label
    yield "XGBoost classifier", xgboost


def free_sizes() -> Iterator[tuple[str, Callable[[], Made]]]:
    """A convolution as PyTorch exports one with dynamic axes: batch, height and width by name."""

    def convolution() -> Made:
        from onnx import TensorProto, helper, numpy_helper

        weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, "height", "width"])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
        graph = helper.make_graph(nodes, "main_graph", [x], [y], [numpy_helper.from_array(weights, "w")])
        onnx = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        pictures = [np.random.default_rng(n).random((1, 3, 5 + n % 4, 6 + n % 3), np.float32) for n in range(ROWS)]
        expected = []
        for picture in pictures:
            padded = np.pad(picture[0].astype(float), ((0, 0), (1, 1), (1, 1)))
            seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
            answer = np.maximum(np.einsum("chwij,ocij->ohw", seen, weights.astype(float)), 0).mean((1, 2))
            expected.append(answer[None])
        given = [{"name": "x", "dtype": "float32", "shape": [-1, 3, -1, -1]}]
        output = {"name": "y", "dtype": "float32", "shape": [-1, 4]}
        rows = [{"x": picture.tolist()} for picture in pictures]
        return tensors(onnx.SerializeToString(), given, output, rows, expected)

    yield "convolution with free batch, height and width", convolution


def difference(made: Made, folder: Path) -> float:
    """Check a model's folder as a user does, ask it every row, and find the largest difference."""
    onnx, declaration, requests, expected = made
    folder.mkdir()
    (folder / "model.onnx").write_bytes(onnx)
    full = {"name": folder.name, "framework": "ONNX", "source": "model.onnx", **declaration}
    (folder / "model.json").write_text(json.dumps(full))
    source = ModelSource.read(folder)
    check_model(source)
    with contextlib.redirect_stdout(io.StringIO()):
        refused = model_tool.main(["check", str(folder), json.dumps(requests[0])])
    if refused:
        raise RuntimeError("tools.model check refuses it")
    workload = load(package(source, folder.parent / "package"))
    largest = 0.0
    for request, wanted in zip(requests, expected, strict=True):
        asked = parse(json.dumps(request).encode(), "local")
        assert isinstance(asked, Request)
        prediction = workload.predict(asked, 100)
        if prediction.scores:
            order = {label: place for place, label in enumerate(full["labels"])}
            found = np.zeros(len(order))
            for score in prediction.scores:
                found[order[score.label]] = score.probability
        else:
            (found,) = (np.asarray(value, float) for value in (prediction.outputs or {}).values())
        largest = max(largest, float(np.abs(found - wanted).max()))
    return largest


def main() -> int:
    """Convert, run and compare; print a table."""
    warnings.simplefilter("ignore")
    wrong = 0
    print("| model | largest difference | |\n|---|---:|---|")
    for family in (scikit_learn, boosting, free_sizes):
        for name, make in family():
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    found = difference(make(), Path(scratch) / "model")
                    shown, bad = f"{found:.1e}", found > TOLERANCE
                except Exception as exc:  # noqa: BLE001 - whatever a converter does, the table says it
                    shown, bad = f"{type(exc).__name__}: {' '.join(str(exc).split())[:160]}", True
            wrong += bad and name not in KNOWN
            print(f"| {name} | {shown} | {KNOWN.get(name, '')} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
