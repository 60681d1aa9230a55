#!/bin/sh
# onnx 1.23.2: version_converter.convert_version takes a Hardmax of opset 12 or older to 13 as it is, without a word, and the
# checker accepts it. Until 12 all axes from axis on (1 unless given) are one group with a single 1 in it; from 13 on each line
# along axis (-1 unless given) has one. Softmax and LogSoftmax, which changed in the same way, get a Flatten and a Reshape and
# stay right. Hardmax stays right where axis is the last one, or is not given and the input has two axes. ONNX's reference
# evaluator does not show it: it takes all three of any opset as those of 13, so that Hardmax looks unchanged and Softmax does not.
# TVM did so, too: github.com/apache/tvm/issues/19420.
# Ones of Hardmax (sums of Softmax, and of LogSoftmax after exp) in a tensor of 2×3×4, by axis: opset 11 -> opset 13.
# Seen with onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   Hardmax: ONNX Runtime none: 2 -> 6, 0: 1 -> 12, 1: 2 -> 8, 2: 6 -> 6; reference none: 6 -> 6, 0: 12 -> 12, 1: 8 -> 8,
#   2: 6 -> 6
#   Softmax: ONNX Runtime none: 2 -> 2, 0: 1 -> 1, 1: 2 -> 2, 2: 6 -> 6; reference none: 6 -> 2, 0: 12 -> 1, 1: 8 -> 2, 2: 6 -> 6
#   LogSoftmax: the same as Softmax
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, version_converter
from onnx.reference import ReferenceEvaluator

values = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
axes = {"none": {}, "0": {"axis": 0}, "1": {"axis": 1}, "2": {"axis": 2}}


def run(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": values})[0], ReferenceEvaluator(model).run(None, {"x": values})[0]


def ask(operator, axis):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **axis)], "graph", [x], [y])
    old = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=7)
    new = version_converter.convert_version(old, 13)
    for model in (old, new):
        checker.check_model(model, full_check=True)
    answers = [run(model) for model in (old, new)]
    if operator == "LogSoftmax":
        answers = [[np.exp(answer) for answer in pair] for pair in answers]
    assert np.allclose(*answers[1], atol=1e-6)
    kept = np.allclose(answers[0][0], answers[1][0], atol=1e-6)
    sums = [[round(float(answer.sum())) for answer in pair] for pair in answers]
    return kept, *zip(*sums, strict=True)


operators = ("Hardmax", "Softmax", "LogSoftmax")
found = {operator: {name: ask(operator, axis) for name, axis in axes.items()} for operator in operators}
for operator, seen in found.items():
    told = (", ".join(f"{name}: {sums[n][0]} -> {sums[n][1]}" for name, sums in seen.items()) for n in (1, 2))
    print("{}: ONNX Runtime {}; reference {}".format(operator, *told))
groups, lines = [2, 1, 2, 6], [6, 12, 8, 6]
for operator, seen in found.items():
    kept, runtime, reference = (list(column) for column in zip(*seen.values(), strict=True))
    after = lines if operator == "Hardmax" else groups
    assert runtime == list(zip(groups, after, strict=True)), operator
    assert reference == list(zip(lines, after, strict=True)), operator
    assert kept == [operator != "Hardmax" or name == "2" for name in axes], operator
PYTHON
