#!/bin/sh
# OpenVINO 2026.4.1 leaves out the attribute keep_aspect_ratio_policy of an ONNX Resize (opset 18 and later) without a word: it
# stretches the picture to the size given, where the model asks for the largest size within it (not_larger) or the smallest
# around it (not_smaller) of the same proportions. ONNX Runtime and ONNX's reference evaluator do as asked. A model that scales
# its own input sees distorted pictures there, and tensors of another shape.
# Seen with onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, CPython 3.11 (height × width, from 48×64 to 32×32):
#   stretch: OpenVINO 32×32, ONNX Runtime 32×32, reference 32×32; not_larger: OpenVINO 32×32, ONNX Runtime 24×32,
#   reference 24×32; not_smaller: OpenVINO 32×32, ONNX Runtime 32×43, reference 32×43
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 \
    openvino==2026.4.1
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

picture = np.arange(3 * 48 * 64, dtype=np.float32).reshape(1, 3, 48, 64)
square = numpy_helper.from_array(np.array([32, 32]), "square")


def ask(policy):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, picture.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, None, None])
    resize = {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": policy}
    node = helper.make_node("Resize", ["x", "", "", "square"], ["y"], **resize)
    graph = helper.make_graph([node], "graph", [x], [y], [square])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    checker.check_model(model, full_check=True)
    written = model.SerializeToString()
    core = openvino.Core()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    answers = {
        "OpenVINO": core.compile_model(core.read_model(written), "CPU")([picture])[0],
        "ONNX Runtime": session.run(None, {"x": picture})[0],
        "reference": ReferenceEvaluator(model).run(None, {"x": picture})[0],
    }
    return {name: answer.shape[2:] for name, answer in answers.items()}


found = {policy: ask(policy) for policy in ("stretch", "not_larger", "not_smaller")}
seen = {policy: ", ".join(f"{name} {size[0]}×{size[1]}" for name, size in sizes.items()) for policy, sizes in found.items()}
print("; ".join(f"{policy}: {line}" for policy, line in seen.items()))
wanted = {"stretch": (32, 32), "not_larger": (24, 32), "not_smaller": (32, 43)}
assert found == {
    policy: {"OpenVINO": (32, 32), "ONNX Runtime": shape, "reference": shape} for policy, shape in wanted.items()
}
PYTHON
