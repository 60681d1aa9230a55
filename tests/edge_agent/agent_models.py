"""Model packages for the agent's tests, with what the digit model does not have: free sizes, types, two inputs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save_model


def make_package(
    folder: Path, nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any], constants: Sequence[Any] = ()
) -> Path:
    """Write a package of raw tensors."""
    folder.mkdir(parents=True)
    model = helper.make_model(
        helper.make_graph(nodes, "test", inputs, outputs, list(constants)),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    save_model(model, str(folder / "model.onnx"))
    content = (folder / "model.onnx").read_bytes()
    files = {"model.onnx": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
    (folder / "manifest.json").write_text(json.dumps({"name": folder.name, "version": "1.0.0", "files": files}))
    return folder


def doubler(folder: Path, element: int = TensorProto.FLOAT, shape: Sequence[Any] | None = ("batch", 3)) -> Path:
    """y = x + x, by default of any batch."""
    return make_package(
        folder,
        [helper.make_node("Add", ["x", "x"], ["y"])],
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )


def averages(folder: Path) -> Path:
    """Averages of pictures of any batch, by way of values that are several times as large."""
    weights = np.full((16, 3, 3, 3), 1 / 27, np.float32)
    return make_package(
        folder,
        [
            helper.make_node("Conv", ["x", "w"], ["wide"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["wide"], ["kept"]),
            helper.make_node("GlobalAveragePool", ["kept"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )


def adder(folder: Path) -> Path:
    """s = a + float(b), with inputs of two types."""
    return make_package(
        folder,
        [helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT), helper.make_node("Add", ["a", "c"], ["s"])],
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [2]),
            helper.make_tensor_value_info("b", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, [2])],
    )
