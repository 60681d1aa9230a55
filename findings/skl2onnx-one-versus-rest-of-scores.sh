#!/bin/sh
# skl2onnx 1.20.0: a OneVsRestClassifier takes the second column of each classifier in it for a probability, also of one that has
# none. The score of an SVC arrives with its sign turned, and the class that is least likely is named. Of two classes the other
# one gets one less the score, so that scores of a linear classifier are cut at a half in place of 0. It says nothing. With the
# option raw_scores an SVC is right; a LinearSVC, which has one column of them, is refused by the runtime, or all wrong.
# Labels that are scikit-learn 1.9.1's, of three and of two classes of iris, in the rows of the training.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   LogisticRegression: three classes 150 of 150, raw_scores 150; two classes 100 of 100, raw_scores 100
#   SVC: three classes 0 of 150, raw_scores 150; two classes 6 of 100, raw_scores 100
#   LinearSVC: three classes 150 of 150, raw_scores refused; two classes 90 of 100, raw_scores 0
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
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC, LinearSVC

warnings.simplefilter("ignore")
rows, kinds = load_iris(return_X_y=True)
rows = rows.astype(np.float32)
both = slice(50, None)


def right(model, rows, **options):
    written = to_onnx(model, rows[:1], options={"zipmap": False, **options}, target_opset={"": 21, "ai.onnx.ml": 3})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(written.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        return int((session.run(None, {"X": rows})[0] == model.predict(rows)).sum())
    except Exception as error:  # of a kind of its own
        assert "ArrayFeatureExtractor" in str(error)
        return "refused"


def ask(estimator):
    answers = []
    for some, targets in ((rows, kinds), (rows[both], kinds[both])):
        model = OneVsRestClassifier(estimator).fit(some, targets)
        answers += [right(model, some), right(model, some, raw_scores=True)]
    return answers


found = {type(each).__name__: ask(each) for each in (LogisticRegression(max_iter=1000), SVC(), LinearSVC(max_iter=10000))}
for name, (three, raw_three, two, raw_two) in found.items():
    print(f"{name}: three classes {three} of 150, raw_scores {raw_three}; two classes {two} of 100, raw_scores {raw_two}")
assert found["LogisticRegression"] == [150, 150, 100, 100]
assert found["SVC"][0] < 10 and found["SVC"][2] < 20 and found["SVC"][1::2] == [150, 100]
assert found["LinearSVC"][0] == 150 and 50 < found["LinearSVC"][2] < 97
assert found["LinearSVC"][1] == "refused" and found["LinearSVC"][3] < 20
PYTHON
