#!/bin/sh
# skl2onnx 1.20.0: an MLPClassifier that was fitted with two labels a row (each 0 or 1, both at once allowed) is taken for one of
# two classes: its probabilities come out as four columns, first one less each, then each. Who reads the first two, as many as
# scikit-learn 1.9.1 gives, reads the opposite. Labels agree, and three labels come out as three columns.
# Rows of iris with labels made of their species; how many of the first columns, cut at a half, are the labels of the training.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   two labels: labels agree, probabilities (150, 2), ONNX (150, 4); its first columns cut at a half: 0 of 300 right
#   three labels: labels agree, probabilities (150, 3), ONNX (150, 3); its first columns cut at a half: 448 of 450 right
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6 scikit-learn==1.9.1 skl2onnx==1.20.0
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier

warnings.simplefilter("ignore")
rows, kinds = load_iris(return_X_y=True)
rows = rows.astype(np.float32)
tables = {
    "two labels": np.stack([kinds == 0, kinds > 0], axis=1),
    "three labels": np.stack([kinds == 0, kinds == 1, kinds > 0], axis=1),
}
options = onnxruntime.SessionOptions()
options.log_severity_level = 4


def ask(labels):
    model = MLPClassifier((8,), solver="lbfgs", max_iter=1000, random_state=0).fit(rows, labels.astype(int))
    written = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    session = onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answers, shares = session.run(None, {"X": rows})
    own, count = model.predict_proba(rows), labels.shape[1]
    assert np.abs(shares[:, -count:] - own).max() < 1e-4
    assert shares.shape == own.shape or np.abs(shares[:, :count] - (1 - own)).max() < 1e-4
    cut = (shares[:, :count] > 0.5) == labels
    return (answers == model.predict(rows)).all(), own.shape, shares.shape, int(cut.sum()), cut.size


found = {name: ask(labels) for name, labels in tables.items()}
for name, (same, own, shares, right, size) in found.items():
    told = f"labels {'agree' if same else 'differ'}, probabilities {own}, ONNX {shares}"
    print(f"{name}: {told}; its first columns cut at a half: {right} of {size} right")
for name, (same, own, shares, right, size) in found.items():
    assert same, name
    if name == "two labels":
        assert own == (150, 2) and shares == (150, 4) and right < size / 10, name
    else:
        assert own == shares == (150, 3) and right > size * 0.9, name
PYTHON
