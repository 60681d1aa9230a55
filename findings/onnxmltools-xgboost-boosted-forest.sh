#!/bin/sh
# onnxmltools 1.16.0 takes each tree of an XGBoost model for a round of its own, though a round grows num_parallel_tree trees
# for each class (boosted forests). Of three classes, the trees go to the classes in turn, where XGBoost writes all trees of a
# class and round one after the other: labels are wrong. After an early stop best_iteration + 1 trees are kept, where it takes
# that many rounds: the first rounds alone answer. It says nothing of either. A regressor without an early stop is right.
# Labels as in XGBoost of 150, and the largest difference of an early-stopped prediction (targets 25 to 346), by trees a round.
# Seen with xgboost-cpu 3.2.0, onnxruntime 1.32.0, onnx 1.23.2, skl2onnx 1.20.0, scikit-learn 1.9.1, numpy 2.4.6, CPython 3.11:
#   1 tree: 150 labels, early stop 0, no early stop 0; 2 trees: 100 labels, early stop 50, no early stop 0;
#   3 trees: 49 labels, early stop 77, no early stop 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnxmltools==1.16.0 xgboost-cpu==3.2.0 \
    onnxruntime==1.32.0 onnx==1.23.2 skl2onnx==1.20.0 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnxmltools import convert_xgboost
from onnxmltools.convert.common.data_types import FloatTensorType
from sklearn.datasets import load_diabetes, load_iris
from xgboost import XGBClassifier, XGBRegressor

flowers, species = load_iris(return_X_y=True)
patients, progress = load_diabetes(return_X_y=True)
flowers, patients = flowers.astype(np.float32), patients.astype(np.float32)
learnt, held = slice(0, 300), slice(300, None)
plain = {"max_depth": 2, "subsample": 0.8, "random_state": 0, "n_jobs": 1}


def run(model, rows):
    types = [("rows", FloatTensorType([None, rows.shape[1]]))]
    written = convert_xgboost(model, initial_types=types, target_opset=15).SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": rows})[0].ravel()


def regress(**options):
    model = XGBRegressor(**plain, **options)
    told = {"eval_set": [(patients[held], progress[held])]} if "early_stopping_rounds" in options else {}
    model.fit(patients[learnt], progress[learnt], verbose=False, **told)
    return float(np.abs(run(model, patients) - model.predict(patients)).max())


def ask(trees):
    classifier = XGBClassifier(n_estimators=20, num_parallel_tree=trees, **plain).fit(flowers, species)
    same = int((run(classifier, flowers) == classifier.predict(flowers)).sum())
    stopped = regress(n_estimators=200, num_parallel_tree=trees, early_stopping_rounds=5)
    return same, stopped, regress(n_estimators=50, num_parallel_tree=trees)


found = {f"{trees} tree{'s' * (trees > 1)}": ask(trees) for trees in (1, 2, 3)}
text = "{}: {} labels, early stop {:.0f}, no early stop {:.0f}"
print("; ".join(text.format(name, *values) for name, values in found.items()))
for name, (same, stopped, unstopped) in found.items():
    assert unstopped < 0.01, name
    assert (same == 150 and stopped < 0.01) if name == "1 tree" else (same < 120 and stopped > 10), name
PYTHON
