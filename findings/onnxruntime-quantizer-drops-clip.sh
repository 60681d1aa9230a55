#!/bin/sh
# ONNX Runtime 1.32.0: quantize_static takes a Clip or Relu behind a quantized operator out of the model, and counts on the
# limits of the integers. Their range is that of the Clip's output, but always reaches 0: of a Clip with a lower limit above 0
# (or an upper one below 0) the limit is lost without a word, in QDQ and in QOperator. A division or a logarithm behind it,
# which the limit protected, gets zeros. QDQKeepRemovableActivations keeps the Clip, of QDQ alone. In QDQ a Relu goes as well
# where the integers do not cut at 0: with an output that OpTypesToExcludeOutputQuantization leaves in float, or that
# TensorQuantOverrides makes symmetric. For the option ActivationSymmetric, which did the same, it was mended:
# github.com/microsoft/onnxruntime/issues/11660. A Clip of 0 to 6 and a plain Relu are right.
# Range of the output, in float -> QDQ, QDQ that keeps activations, QOperator; and the share of outputs outside the first.
# Seen with onnx 1.23.2, numpy 2.4.6, CPython 3.11:
#   Clip 0 to 6: 0.0 to 6.0 -> 0.0 to 6.0 (0%), 0.0 to 6.0 (0%), 0.0 to 6.0 (0%)
#   Clip 1 to 6: 1.0 to 6.0 -> 0.0 to 6.0 (58%), 1.0 to 6.0 (0%), 0.0 to 6.0 (58%)
#   Clip -6 to -1: -6.0 to -1.0 -> -6.0 to 0.0 (58%), -6.0 to -1.0 (0%), -6.0 to 0.0 (58%)
#   Relu: 0.0 to 20.7 -> 0.0 to 20.7 (0%), 0.0 to 20.7 (0%), 0.0 to 20.7 (0%)
#   Relu, output in float: 0.0 to 20.7 -> -17.6 to 20.7 (48%), 0.0 to 20.7 (0%), 0.0 to 20.7 (0%)
#   Relu, output symmetric: 0.0 to 20.7 -> -17.6 to 20.7 (48%), 0.0 to 20.7 (0%), 0.0 to 20.7 (0%)
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
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
pictures = random.normal(size=(64, 3, 4, 4)).astype(np.float32)
weights = 2 * random.normal(size=(4, 3, 1, 1)).astype(np.float32)


class Pictures(CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": pictures}]

    def get_next(self):
        return self.left.pop() if self.left else None


def run(model):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": pictures})[0]


def ask(limits, **options):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 4, 4])
    bounds = {name: np.array(limit, np.float32) for name, limit in zip(("low", "high"), limits)}
    constants = [numpy_helper.from_array(value, name) for name, value in {"w": weights, **bounds}.items()]
    operator = "Clip" if limits else "Relu"
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv"), helper.make_node(operator, ["c", *bounds], ["y"], "act")]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    wanted = run(model.SerializeToString())
    ranges = [(wanted.min(), wanted.max(), 0.0)]
    for form, kept in ((QuantFormat.QDQ, False), (QuantFormat.QDQ, True), (QuantFormat.QOperator, False)):
        extra = {**options, "QDQKeepRemovableActivations": kept}
        # Seven bits a weight: sums of eight-bit products saturate on processors without VNNI.
        quantize_static(model, sys.argv[1], Pictures(), quant_format=form, reduce_range=True, extra_options=extra)
        answer = run(sys.argv[1])
        # A step of eight bits is 0.02 to 0.2.
        outside = (answer < wanted.min() - 0.2) | (answer > wanted.max() + 0.2)
        ranges.append((answer.min(), answer.max(), float(outside.mean())))
    return ranges


symmetric = {"y": [{"quant_type": QuantType.QInt8, "symmetric": True}]}
found = {
    "Clip 0 to 6": ask((0, 6)),
    "Clip 1 to 6": ask((1, 6)),
    "Clip -6 to -1": ask((-6, -1)),
    "Relu": ask(()),
    "Relu, output in float": ask((), OpTypesToExcludeOutputQuantization=["Relu"]),
    "Relu, output symmetric": ask((), TensorQuantOverrides=symmetric),
}
for name, ((low, high, _), *quantized) in found.items():
    told = ", ".join(f"{least:.1f} to {most:.1f} ({share:.0%})" for least, most, share in quantized)
    print(f"{name}: {low:.1f} to {high:.1f} -> {told}")
for name, (_, *quantized) in found.items():
    lost = [share > 0.3 for _, _, share in quantized]
    right = [share == 0 for _, _, share in quantized]
    if name in ("Clip 0 to 6", "Relu"):
        assert all(right), name
    else:
        assert lost == [True, False, name.startswith("Clip")], name
        assert right == [not value for value in lost], name
PYTHON
