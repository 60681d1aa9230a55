#!/bin/sh
# ONNX Runtime 1.32.0 describes an input of unknown rank exactly as a scalar, by the shape [], and runs both alike: the rank
# of an input that the model declares as a scalar is not checked. Whoever reads session.get_inputs()[0].shape to check a value
# refuses what the runtime takes; only a run can tell.
# Seen with onnx 1.23.2, numpy 2.4.6, CPython 3.11:
#   no shape: [] takes [3] values; scalar: [] takes [3] values; one size: [1] refuses them
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def ask(shape):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        session.run(None, {"x": np.array([1, 2, 3], np.float32)})
    except Exception:
        return session.get_inputs()[0].shape, "refuses them"
    return session.get_inputs()[0].shape, "takes [3] values"


found = {"no shape": ask(None), "scalar": ask([]), "one size": ask([1])}
print("; ".join(f"{name}: {shape} {answer}" for name, (shape, answer) in found.items()))
assert found == {
    "no shape": ([], "takes [3] values"),
    "scalar": ([], "takes [3] values"),
    "one size": ([1], "refuses them"),
}
PYTHON
