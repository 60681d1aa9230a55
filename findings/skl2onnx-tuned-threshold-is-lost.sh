#!/bin/sh
# skl2onnx 1.20.0 converts a TunedThresholdClassifierCV without its threshold: the label of the file is that of the classifier
# inside, which cuts at a half, and nothing else in it tells of best_threshold_. scikit-learn 1.9.1 fits that number so that a
# missed case, say, costs more than a false alarm; the converted model misses cases again, without a word. The probabilities
# agree, so that a comparison of them alone sees no fault. (FixedThresholdClassifier has no converter and is refused.)
# Benign and malignant tumours, where a missed malignant one costs ten times a false alarm; 300 rows to learn from, 269 held
# back, 66 of them malignant: threshold, then missed and false alarms of scikit-learn, of the file, and of the classifier alone.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   forest: 0.24: scikit-learn 0 and 28, ONNX 2 and 10, alone 2 and 10; 20 labels differ, probabilities agree
#   Bayes: 0.03: scikit-learn 1 and 13, ONNX 4 and 9, alone 4 and 9; 7 labels differ, probabilities agree
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
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import make_scorer
from sklearn.model_selection import TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

rows, benign = load_breast_cancer(return_X_y=True)
rows, malignant = rows.astype(np.float32), 1 - benign
learnt, held = slice(0, 300), slice(300, None)


def mistakes(truth, labels):
    return int((truth > labels).sum()), int((truth < labels).sum())


def cost(truth, labels):
    missed, alarms = mistakes(truth, labels)
    return 10 * missed + alarms


def ask(classifier):
    scoring = make_scorer(cost, greater_is_better=False)
    tuned = TunedThresholdClassifierCV(classifier, scoring=scoring, random_state=0).fit(rows[learnt], malignant[learnt])
    written = to_onnx(tuned, rows[:1], options={"zipmap": False}, target_opset={"": 21, "ai.onnx.ml": 3})
    session = onnxruntime.InferenceSession(written.SerializeToString(), providers=["CPUExecutionProvider"])
    labels, shares = session.run(None, {"X": rows[held]})
    own, alone = tuned.predict(rows[held]), tuned.estimator_.predict(rows[held])
    assert np.abs(shares - tuned.predict_proba(rows[held])).max() < 1e-4
    assert (labels == alone).all()
    counts = [mistakes(malignant[held], answer) for answer in (own, labels, alone)]
    return tuned.best_threshold_, counts, int((labels != own).sum())


found = {
    "forest": ask(RandomForestClassifier(50, random_state=0)),
    "Bayes": ask(make_pipeline(StandardScaler(), GaussianNB())),
}
for name, (threshold, counts, differ) in found.items():
    told = ", ".join(f"{who} {n} and {m}" for who, (n, m) in zip(("scikit-learn", "ONNX", "alone"), counts, strict=True))
    print(f"{name}: {threshold:.2f}: {told}; {differ} labels differ, probabilities agree")
for name, (threshold, (own, converted, alone), differ) in found.items():
    assert threshold < 0.4, name
    assert differ > 0 and converted == alone and own[0] < converted[0], name
PYTHON
