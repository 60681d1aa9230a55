#!/bin/sh
# onnxmltools 1.16.0 converts a LightGBM model that was trained with zero_as_missing = true as if it had not been: a 0 is
# compared with the threshold, where LightGBM sends it the way of missing values. Of a model with linear_tree = true it keeps
# the constant of each leaf and leaves the linear function out. It says nothing of either. Largest difference of the output
# on rows with a third of zeros, by what the training was told.
# Seen with lightgbm 4.7.0, onnxruntime 1.32.0, onnx 1.23.2, skl2onnx 1.20.0, numpy 2.4.6, CPython 3.11:
#   nothing: 0.00 on zeros, 0.00 on other rows; zero_as_missing: 2.89 on zeros, 0.00 on other rows;
#   linear_tree: 0.00 on zeros, 2.41 on other rows
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnxmltools==1.16.0 lightgbm==4.7.0 \
    onnxruntime==1.32.0 onnx==1.23.2 skl2onnx==1.20.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

warnings.filterwarnings("ignore")
import lightgbm
import numpy as np
import onnxruntime
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

random = np.random.default_rng(0)
rows = random.normal(size=(2000, 1)).astype(np.float32)
zeros = random.random(2000) < 1 / 3
rows[zeros] = 0
# What is not measured is written as 0, and means something of its own.
values = np.where(zeros, 3.0, 2 * rows[:, 0])


def ask(told):
    wanted = {"objective": "regression", "verbose": -1, "seed": 0, "num_threads": 1, **told}
    booster = lightgbm.train(wanted, lightgbm.Dataset(rows, values, params=wanted), 30)
    converted = convert_lightgbm(booster, initial_types=[("X", FloatTensorType([None, 1]))], target_opset=15)
    session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": rows})[0].ravel()
    off = np.abs(found - booster.predict(rows))
    return float(off[zeros].max()), float(off[~zeros].max())


found = {name or "nothing": ask({name: True} if name else {}) for name in ("", "zero_as_missing", "linear_tree")}
print("; ".join(f"{name}: {on_zeros:.2f} on zeros, {others:.2f} on other rows" for name, (on_zeros, others) in found.items()))
assert max(found["nothing"]) < 1e-3
assert found["zero_as_missing"][0] > 0.5 and found["zero_as_missing"][1] < 1e-3
assert max(found["linear_tree"]) > 0.1
PYTHON
