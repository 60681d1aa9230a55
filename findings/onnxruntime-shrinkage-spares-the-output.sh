#!/bin/sh
# ONNX Runtime 1.32.0: "memory.enable_memory_arena_shrinkage" does not give back the part of the arena that holds the output
# of that same run; it stays for good, until a later run asks for the shrinkage, too.
# A service that sets the option for large inputs alone keeps the largest output: the small run after it needs it as well.
# Seen with onnx 1.23.2, numpy 2.4.6, CPython 3.11 on Linux (MB of resident memory above the start, after malloc_trim):
#   after a run of 64 MB that shrinks: +66; after small runs: +66; after one small run that shrinks: +0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import ctypes
import gc
import os

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy")
graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "graph", [x], [y])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
shrinking = onnxruntime.RunOptions()
shrinking.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")


def resident_mb():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def run(size, options=None):
    session.run(None, {"x": np.ones(size, np.float32)}, options)


for _ in range(10):
    run(1, shrinking)
start = resident_mb()
run(16_000_000, shrinking)
large = resident_mb() - start
for _ in range(100):
    run(1)
small = resident_mb() - start
run(1, shrinking)
shrunk = resident_mb() - start
print(
    f"after a run of 64 MB that shrinks: {large:+.0f}; after small runs: {small:+.0f}; "
    f"after one small run that shrinks: {shrunk:+.0f}"
)
assert large > 50
assert small > 50
assert shrunk < 10
PYTHON
