#!/bin/sh
# skl2onnx 1.20.0: a BaggingClassifier around what gives no probabilities (an SVC or a RidgeClassifier, say) votes by labels.
# From opset 13 on, the converted one counts the votes over the rows in place of the estimators: however many rows go in, as many
# answers come out as it has estimators, and each tells what one estimator said most often of all rows. With one row, a caller takes
# the first answer, which is the first estimator's alone; with as many rows as estimators nothing looks wrong. With opset 12, and
# around what has predict_proba, it is right. It says nothing; only the declared shape of the second output has that number.
# Answers for the 150 rows of iris and how many are scikit-learn 1.9.1's, then of a row at a time, by opset (10 estimators).
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   DecisionTreeClassifier, opset 12, 13 and 21: 150 answers, 150 the same; a row: 1 answers, the first the same of 150
#   SVC, opset 12: 150 answers, 150 the same; a row: 1 answers, the first the same of 150
#   SVC, opset 13 and 21: 10 answers; a row: 10 answers, the first the same of 120
#   RidgeClassifier, opset 12: 150 answers, 150 the same; a row: 1 answers, the first the same of 150
#   RidgeClassifier, opset 13 and 21: 10 answers; a row: 10 answers, the first the same of 115
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
from sklearn.ensemble import BaggingClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

warnings.simplefilter("ignore")
rows, kinds = load_iris(return_X_y=True)
rows = rows.astype(np.float32)


def ask(estimator, opset):
    # A few rows each: the estimators are of several opinions.
    model = BaggingClassifier(estimator, n_estimators=10, max_samples=12, random_state=0).fit(rows, kinds)
    own = model.predict(rows)
    written = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": opset, "ai.onnx.ml": 2})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])
    labels, shares = session.run(None, {"X": rows})
    declared = session.get_outputs()[1].shape[0]
    assert len(shares) == len(labels)
    assert declared in (None, len(labels))
    same = int((labels == own).sum()) if len(labels) == len(rows) else None
    single = [session.run(None, {"X": row[None]})[0] for row in rows]
    answers = {len(answer) for answer in single}
    assert len(answers) == 1
    return len(labels), same, answers.pop(), int((np.stack(single)[:, 0] == own).sum())


estimators = (DecisionTreeClassifier(max_depth=2), SVC(), RidgeClassifier())
found = {(type(estimator).__name__, opset): ask(estimator, opset) for estimator in estimators for opset in (12, 13, 21)}
for (name, opset), (answers, same, single, right) in found.items():
    told = f"{answers} answers" + (f", {same} the same" if same is not None else "")
    print(f"{name}, opset {opset}: {told}; a row: {single} answers, the first the same of {right}")
for (name, opset), seen in found.items():
    if name == "DecisionTreeClassifier" or opset == 12:
        assert seen == (150, 150, 1, 150), name
    else:
        assert seen[:3] == (10, None, 10) and seen[3] < 145, name
PYTHON
