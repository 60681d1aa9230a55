#!/bin/sh
# ONNX Runtime 1.32.0: quantize_static loses the factor beta of a Gemm (y = x·w + beta·b) without a word. It multiplies the
# scale of the stored bias by beta and sets the attribute to 1 (QDQ) or leaves it out (QOperator), so that QDQ adds b. With its
# optimizations on, the runtime takes the stored integers for ones of the scale without beta and adds b/beta, as it does for
# QOperator: one QDQ file gives two answers, and both are wrong. With beta 1, as exporters write a linear layer, all is well.
# The runtime had a fault with alpha: github.com/microsoft/onnxruntime/issues/28130. Largest difference from the model in
# float, whose outputs reach 20, 33 and 14; a step of eight bits is 0.1 to 0.3.
# Seen with onnx 1.23.2, numpy 2.4.6, CPython 3.11 (QDQ, QDQ without optimizations, QOperator):
#   beta 1: 0.2, 0.2, 0.2; beta 2: 19.0, 12.7, 19.0; beta 0.5: 15.2, 6.4, 15.2
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
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
rows, weights = (random.normal(size=size).astype(np.float32) for size in ((64, 16), (16, 8)))
bias = 5 * random.normal(size=8).astype(np.float32)


class Rows(CalibrationDataReader):
    def __init__(self):
        self.left = [{"x": rows}]

    def get_next(self):
        return self.left.pop() if self.left else None


def run(model, optimized=True):
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


def ask(beta):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 16), ("y", 8)))
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    graph = helper.make_graph([helper.make_node("Gemm", ["x", "w", "b"], ["y"], beta=beta)], "graph", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    wanted = run(model.SerializeToString())
    off = []
    for form, levels in ((QuantFormat.QDQ, (True, False)), (QuantFormat.QOperator, (True,))):
        # Seven bits a weight: sums of eight-bit products saturate on processors without VNNI.
        quantize_static(model, sys.argv[1], Rows(), quant_format=form, reduce_range=True)
        off += [float(np.abs(run(sys.argv[1], optimized) - wanted).max()) for optimized in levels]
    return off


found = {beta: ask(beta) for beta in (1.0, 2.0, 0.5)}
print("; ".join(f"beta {beta:g}: " + ", ".join(f"{value:.1f}" for value in off) for beta, off in found.items()))
assert max(found[1.0]) < 0.5
assert min(found[2.0] + found[0.5]) > 3
PYTHON
