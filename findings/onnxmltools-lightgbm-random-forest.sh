#!/bin/sh
# onnxmltools 1.16.0 converts LightGBM's random forest (boosting rf) and its one-vs-all classes (objective multiclassova)
# without a word into models with other probabilities. The trees of a forest are added up where LightGBM takes their mean;
# one-vs-all scores go through a softmax in place of a sigmoid each and a division by their sum. Boosted binary and softmax
# models come out equal, so that a look at one model says nothing of the other. Largest difference of a probability on the
# training rows.
# Seen with lightgbm 4.7.0, onnxruntime 1.32.0, onnx 1.23.2, skl2onnx 1.20.0, numpy 2.4.6, CPython 3.11:
#   gbdt, binary: 0.00; rf, binary: 0.38; gbdt, multiclass: 0.00; gbdt, multiclassova: 0.32
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
rows = random.normal(size=(2000, 2)).astype(np.float32)
binary = (rows[:, 0] + 0.3 * rows[:, 1] > 0.4).astype(int)
three = binary + (rows[:, 1] > 0.5)


def ask(boosting, objective, labels):
    wanted = {"boosting": boosting, "objective": objective, "verbose": -1, "seed": 0, "num_threads": 1}
    wanted |= {"bagging_fraction": 0.5, "bagging_freq": 1} if boosting == "rf" else {}
    wanted |= {"num_class": 3} if objective.startswith("multi") else {}
    booster = lightgbm.train(wanted, lightgbm.Dataset(rows, labels), 10)
    converted = convert_lightgbm(booster, initial_types=[("X", FloatTensorType([None, 2]))], zipmap=False, target_opset=15)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = converted.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"X": rows})[1]
    said = booster.predict(rows)
    said = np.column_stack([1 - said, said]) if said.ndim == 1 else said
    return float(np.abs(found - said).max())


forms = [("gbdt", "binary", binary), ("rf", "binary", binary), ("gbdt", "multiclass", three), ("gbdt", "multiclassova", three)]
found = {f"{boosting}, {objective}": ask(boosting, objective, labels) for boosting, objective, labels in forms}
print("; ".join(f"{name}: {difference:.2f}" for name, difference in found.items()))
assert max(found["gbdt, binary"], found["gbdt, multiclass"]) < 1e-4
assert min(found["rf, binary"], found["gbdt, multiclassova"]) > 0.2
PYTHON
