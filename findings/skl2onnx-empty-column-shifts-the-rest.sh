#!/bin/sh
# skl2onnx 1.20.0 keeps a column that scikit-learn 1.9.1 leaves out. A SimpleImputer drops a column that was empty in all rows
# of the training (keep_empty_features is False unless asked for); the converted one hands it on, and each later column comes
# one place too far to the right. A tree behind it compares its thresholds with values of the column before and answers without a
# word; a linear model refuses to run. A sensor that had not delivered yet when the rows were gathered is such a column. With
# keep_empty_features=True both agree.
# Seen with iris, whose first column is emptied, onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   left out: 3 columns, 150 of 150 right; ONNX 4 columns, 42 right; kept: 4 columns, 150 of 150 right; ONNX 4 columns, 150 right
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
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier

warnings.simplefilter("ignore")
rows, labels = load_iris(return_X_y=True)
rows = rows.astype(np.float32)
rows[:, 0] = np.nan


def run(estimator):
    written = to_onnx(estimator, rows[:1], target_opset={"": 21, "ai.onnx.ml": 3}).SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: rows})[0]


def ask(keep):
    imputer = SimpleImputer(keep_empty_features=keep).fit(rows)
    pipeline = make_pipeline(SimpleImputer(keep_empty_features=keep), DecisionTreeClassifier(random_state=0)).fit(rows, labels)
    filled = imputer.transform(rows), run(imputer)
    answers = pipeline.predict(rows), run(pipeline)
    return [(table.shape[1], int((answer == labels).sum())) for table, answer in zip(filled, answers, strict=True)]


found = {"left out": ask(False), "kept": ask(True)}
text = "{}: {} columns, {} of 150 right; ONNX {} columns, {} right"
print("; ".join(text.format(name, *python, *converted) for name, (python, converted) in found.items()))
assert found["kept"] == [(4, 150), (4, 150)]
assert found["left out"][0] == (3, 150)
assert found["left out"][1][0] == 4
assert found["left out"][1][1] < 75
PYTHON
