#!/bin/sh
# ONNX Runtime 1.32.0: quantize_static in the format QOperator stores a bias that several operators share once, as integers of
# the scale that the first of them needs (that of its input times that of its weights), and hands the same integers to all.
# The others take them for ones of their own scale: their bias is too large or too small by the ratio, without a word. A head that
# a detector applies to each level of its pyramid is such a thing: one weight, one bias, inputs of several ranges. QDQ copies
# the bias first and is right, and so is QOperator where each operator has a bias of its own with the same values.
# github.com/microsoft/onnxruntime/pull/7982 meant to mend it.
# Largest difference from the model in float, of two levels, the coarse with inputs ten times as large, by which comes first.
# Seen with onnx 1.23.2, numpy 2.4.6, CPython 3.11 (a step of eight bits is 0.04 and 0.4):
#   fine first: QDQ: fine 0.08, coarse 0.53; QOperator: fine 0.08, coarse 34.60; QOperator, a bias each: fine 0.08, coarse 0.53
#   (outputs reach 8 and 62)
#   coarse first: QDQ: fine 0.08, coarse 0.53; QOperator: fine 4.15, coarse 0.53; QOperator, a bias each: fine 0.08, coarse 0.53
#   (outputs reach 8 and 62)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder/quantized.onnx" <<'PYTHON'
import logging
import sys

logging.disable(logging.CRITICAL)
import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
weights = random.normal(size=(4, 3, 1, 1)).astype(np.float32)
bias = 2 * random.normal(size=4).astype(np.float32)
levels = {
    "fine": random.normal(size=(8, 3, 8, 8)).astype(np.float32),
    "coarse": 10 * random.normal(size=(8, 3, 4, 4)).astype(np.float32),
}


class Levels(CalibrationDataReader):
    def __init__(self):
        self.left = [levels]

    def get_next(self):
        return self.left.pop() if self.left else None


def run(model):
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, levels)


def ask(order, form, shared):
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape) for name, values in levels.items()]
    shapes = {name: [8, 4, *values.shape[2:]] for name, values in levels.items()}
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    biases = dict.fromkeys(levels, "b") if shared else {name: f"{name}_b" for name in levels}
    nodes = [helper.make_node("Conv", [name, "w", biases[name]], [f"{name}_out"], f"{name}_head") for name in order]
    constants = [numpy_helper.from_array(bias, name) for name in sorted(set(biases.values()))]
    constants.append(numpy_helper.from_array(weights, "w"))
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    checker.check_model(model, full_check=True)
    wanted = run(model.SerializeToString())
    # Seven bits a weight: sums of eight-bit products saturate on processors without VNNI.
    quantize_static(model, sys.argv[1], Levels(), quant_format=form, reduce_range=True)
    differences = [float(np.abs(found - right).max()) for found, right in zip(run(sys.argv[1]), wanted, strict=True)]
    return dict(zip(levels, differences, strict=True)), [float(np.abs(right).max()) for right in wanted]


forms = {"QDQ": (QuantFormat.QDQ, True), "QOperator": (QuantFormat.QOperator, True)}
forms["QOperator, a bias each"] = QuantFormat.QOperator, False
for first, second in (("fine", "coarse"), ("coarse", "fine")):
    found = {name: ask((first, second), *form) for name, form in forms.items()}
    text = "{}: fine {fine:.2f}, coarse {coarse:.2f}"
    told = "; ".join(text.format(name, **differences) for name, (differences, _) in found.items())
    print(f"{first} first: {told} (outputs reach {found['QDQ'][1][0]:.0f} and {found['QDQ'][1][1]:.0f})")
    for name, (differences, _) in found.items():
        assert differences[first] < {"fine": 0.2, "coarse": 2}[first], name
        if name == "QOperator":
            assert differences[second] > {"fine": 1, "coarse": 10}[second], name
        else:
            assert differences[second] < {"fine": 0.2, "coarse": 2}[second], name
PYTHON
