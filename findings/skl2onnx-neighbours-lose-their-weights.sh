#!/bin/sh
# skl2onnx 1.20.0: a KNeighborsClassifier or KNeighborsRegressor of weights="distance" is converted to one of weights="uniform". In
# opset 9 distances are negated for a TopK of the largest, and stay so; from 11 on it takes the smallest, and they are negated
# behind it. None is then above 0.000001, the least that the converted one divides by: all neighbours weigh the same, without
# a word. scikit-learn 1.9.1 answers a row of the training with its own target, the file with the mean of k targets. Where
# neighbours are about equally far, as in tables of many columns, little is to be seen.
# Largest difference of an answer in the rows of the training and in others, and from an estimator with uniform weights (rows
# whose 5th and 6th neighbour are equally far left out there): progress of patients, 25 to 346, and shares of a class of iris.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   patients, opset 9: 147.00 in its own rows, 16.64 in others, 0.00 from uniform weights
#   iris, opset 9: 0.80 in its own rows, 0.20 in others, 0.00 from uniform weights
#   patients, opset 11: 147.00 in its own rows, 16.64 in others, 0.00 from uniform weights
#   iris, opset 11: 0.80 in its own rows, 0.20 in others, 0.00 from uniform weights
#   patients, opset 21: 147.00 in its own rows, 16.64 in others, 0.00 from uniform weights
#   iris, opset 21: 0.80 in its own rows, 0.20 in others, 0.00 from uniform weights
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 scikit-learn==1.9.1 skl2onnx==1.20.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_diabetes, load_iris
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

patients, progress = load_diabetes(return_X_y=True)
flowers, species = load_iris(return_X_y=True)
mixed = np.random.default_rng(0).permutation(len(flowers))
flowers, species = flowers[mixed], species[mixed]


def ask(kind, rows, targets, learnt, opset):
    rows, classifies = rows.astype(np.float32), kind is KNeighborsClassifier
    model = kind(5, weights="distance").fit(rows[:learnt], targets[:learnt])
    uniform = kind(5, weights="uniform").fit(rows[:learnt], targets[:learnt])
    options = {"zipmap": False} if classifies else None
    written = to_onnx(model, rows[:1], options=options, target_opset={"": opset, "ai.onnx.ml": 1}).SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    answers = session.run(None, {"X": rows})[-1]
    wanted, even = (
        each.predict_proba(rows) if classifies else each.predict(rows)[:, None] for each in (model, uniform)
    )
    away = np.abs(answers - wanted).max(axis=1)
    # Rows whose 5th and 6th neighbour are as good as equally far may get other ones.
    far = uniform.kneighbors(rows, 6)[0]
    clear = far[:, 5] - far[:, 4] > 1e-5
    return float(away[:learnt].max()), float(away[learnt:].max()), float(np.abs(answers - even).max(axis=1)[clear].max())


found = {}
for opset in (9, 11, 21):
    found["patients", opset] = ask(KNeighborsRegressor, patients, progress, 300, opset)
    found["iris", opset] = ask(KNeighborsClassifier, flowers, species, 100, opset)
for (name, opset), (own, others, even) in found.items():
    print(f"{name}, opset {opset}: {own:.2f} in its own rows, {others:.2f} in others, {even:.2f} from uniform weights")
for (name, _), (own, others, even) in found.items():
    assert even < 1e-3, name
    assert own > (100 if name == "patients" else 0.2), name
    assert others > (5 if name == "patients" else 0.1), name
PYTHON
