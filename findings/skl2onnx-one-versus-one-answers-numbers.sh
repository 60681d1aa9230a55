#!/bin/sh
# skl2onnx 1.20.0: a converted OneVsOneClassifier answers the number of a class in place of its label, and a row of one number for
# each. Labels 0, 1, 2 hide it; of 1, 2, 3 most answers look like labels, and none is right. With words the file declares texts, and
# the runtime does not load it. The votes are right: classes_[number] is what scikit-learn 1.9.1 predicts, in all rows. A
# OneVsRestClassifier hands out labels. Answers that are the estimator's labels, of the rows of iris.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   0, 1, 2: one versus rest 150 of 150 right; one versus one 150 of 150 right, answers [0, 1, 2]
#   1, 2, 3: one versus rest 150 of 150 right; one versus one 0 of 150 right, answers [0, 1, 2]
#   5, 15, 25: one versus rest 150 of 150 right; one versus one 0 of 150 right, answers [0, 1, 2]
#   -1, 1: one versus rest 100 of 100 right; one versus one 52 of 100 right, answers [0, 1]
#   words: one versus rest 150 of 150 right; one versus one not loaded
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
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier

rows, kinds = load_iris(return_X_y=True)
rows = rows.astype(np.float32)


def ask(kind, labels, some=slice(None)):
    model = kind(LogisticRegression(max_iter=1000)).fit(rows[some], np.array(labels)[kinds[some]])
    written = to_onnx(model, rows[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            written.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # of a kind of its own
        assert "Type Error: Type (tensor(string)) of output arg (label)" in str(error)
        return "not loaded"
    answers, own = session.run(None, {"X": rows[some]})[0], model.predict(rows[some])
    # A row of one answer in place of an answer.
    assert answers.shape == ((len(own), 1) if kind is OneVsOneClassifier else own.shape)
    answers = answers.ravel()
    assert kind is OneVsRestClassifier or (model.classes_[answers] == own).all()
    return int((answers == own).sum()), len(own), sorted(set(answers.tolist())), sorted(set(own.tolist()))


cases = {
    "0, 1, 2": ([0, 1, 2],),
    "1, 2, 3": ([1, 2, 3],),
    "5, 15, 25": ([5, 15, 25],),
    "-1, 1": ([0, -1, 1], slice(50, None)),
    "words": (["setosa", "versicolor", "virginica"],),
}
found = {name: (ask(OneVsRestClassifier, *case), ask(OneVsOneClassifier, *case)) for name, case in cases.items()}
for name, (rest, one) in found.items():
    told = f"{one[0]} of {one[1]} right, answers {one[2]}" if one != "not loaded" else one
    print(f"{name}: one versus rest {rest[0]} of {rest[1]} right; one versus one {told}")
for name, (rest, one) in found.items():
    assert rest[0] == rest[1], name
    if name == "words":
        assert one == "not loaded", name
    else:
        assert one[2] == list(range(len(one[3]))) and (one[0] == one[1]) is (name == "0, 1, 2"), name
PYTHON
