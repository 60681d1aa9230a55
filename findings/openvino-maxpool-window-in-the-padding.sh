#!/bin/sh
# OpenVINO 2026.4.1 reads an ONNX MaxPool with ceil_mode=1 so that a last window may begin in the padding on the far side. It has
# nothing to take the largest of: the answer has a row and a column more than ONNX Runtime's, filled with the lowest float, without
# a word, and a mean behind it drowns in that. ONNX's text for opset 22 leaves such windows out, and so do its shape inference and
# reference evaluator; for opset 21 its shape inference counts them, the reference evaluator and ONNX Runtime do not.
# For models of PyTorch it was mended: github.com/openvinotoolkit/openvino/issues/18731. An AveragePool leaves the window out, but
# with count_include_pad=1 divides the sum of one that hangs over the edge of the padding by its full size.
# Seen with onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6, CPython 3.11 (a row of 1 to n by kernel, stride and padding):
#   MaxPool, 6 by 3, 2, 1: OpenVINO 2 4 6 6, ONNX Runtime 2 4 6 6, reference 2 4 6 6, inferred 4
#   MaxPool, 5 by 2, 2, 1: OpenVINO 1 3 5 -3.4e+38, ONNX Runtime 1 3 5, reference 1 3 5, inferred 3
#   MaxPool, 5 by 2, 2, 1, opset 21: OpenVINO 1 3 5 -3.4e+38, ONNX Runtime 1 3 5, reference 1 3 5, inferred 4
#   MaxPool, 5 by 2, 2, 1, mean: OpenVINO -8.5e+37, ONNX Runtime 3, reference 3, inferred 1
#   MaxPool, 5 by 3, 3, 1: OpenVINO 2 5 -3.4e+38, ONNX Runtime 2 5, reference 2 5, inferred 2
#   MaxPool, 4 by 1, 2, 0: OpenVINO 1 3 -3.4e+38, ONNX Runtime 1 3, reference 1 3, inferred 2
#   AveragePool, 5 by 2, 2, 1: OpenVINO 0.5 2.5 4.5, ONNX Runtime 0.5 2.5 4.5, reference 0.5 2.5 4.5, inferred 3
#   AveragePool, 6 by 3, 2, 1: OpenVINO 1 3 5 2, ONNX Runtime 1 3 5 3, reference 1 3 5 3, inferred 4
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
from onnx import TensorProto, checker, helper, shape_inference
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)
core = openvino.Core()


def ask(operator, size, kernel, stride, padding, opset=22, mean=False):
    values = np.arange(1, size + 1, dtype=np.float32).reshape(1, 1, size)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, values.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, None])
    window = {"kernel_shape": [kernel], "strides": [stride], "pads": [padding, padding], "ceil_mode": 1}
    window |= {"count_include_pad": 1} if operator == "AveragePool" else {}
    nodes = [helper.make_node(operator, ["x"], ["pooled"], **window)]
    nodes.append(helper.make_node("ReduceMean" if mean else "Identity", ["pooled"], ["y"]))
    graph = helper.make_graph(nodes, "graph", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    checker.check_model(model, full_check=True)
    written = model.SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    answers = {
        "OpenVINO": core.compile_model(core.read_model(written), "CPU")([values])[0],
        "ONNX Runtime": session.run(None, {"x": values})[0],
        "reference": ReferenceEvaluator(model).run(None, {"x": values})[0],
    }
    shape = shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape
    return {name: answer.ravel().tolist() for name, answer in answers.items()}, shape.dim[2].dim_value


lowest = float(np.finfo(np.float32).min)
# A form, and what OpenVINO and the others answer, and the size that shape inference expects.
wanted = {
    ("MaxPool", 6, 3, 2, 1): ([2, 4, 6, 6], [2, 4, 6, 6], 4),
    ("MaxPool", 5, 2, 2, 1): ([1, 3, 5, lowest], [1, 3, 5], 3),
    ("MaxPool", 5, 2, 2, 1, 21): ([1, 3, 5, lowest], [1, 3, 5], 4),
    ("MaxPool", 5, 2, 2, 1, 22, True): ([lowest / 4], [3], 1),
    ("MaxPool", 5, 3, 3, 1): ([2, 5, lowest], [2, 5], 2),
    ("MaxPool", 4, 1, 2, 0): ([1, 3, lowest], [1, 3], 2),
    ("AveragePool", 5, 2, 2, 1): ([0.5, 2.5, 4.5], [0.5, 2.5, 4.5], 3),
    ("AveragePool", 6, 3, 2, 1): ([1, 3, 5, 2], [1, 3, 5, 3], 4),
}
found = {form: ask(*form) for form in wanted}
for (operator, size, kernel, stride, padding, *more), (answers, inferred) in found.items():
    told = ", ".join(f"{name} {' '.join(f'{value:.2g}' for value in values)}" for name, values in answers.items())
    title = f"{operator}, {size} by {kernel}, {stride}, {padding}{', opset 21' * (more == [21])}{', mean' * (len(more) == 2)}"
    print(f"{title}: {told}, inferred {inferred}")
for form, (answers, inferred) in found.items():
    own, others, size = wanted[form]
    assert np.allclose(answers["OpenVINO"], own), form
    assert np.allclose(answers["ONNX Runtime"], others), form
    assert np.allclose(answers["reference"], others), form
    assert inferred == size, form
PYTHON
