#!/bin/sh
# skl2onnx 1.20.0: an OrdinalEncoder that lumps rare categories together (min_frequency or max_categories) is converted with the
# first column's list of rare categories for all columns that arrive in one tensor. Categories that are frequent in a later
# column get the number of the rare ones there, and the other way round, without a word where the columns have as many
# categories as the first; else the runtime refuses the file. The converter looks the list up by the number of the input, not
# of the column, so that a tensor for each column works, and so does a table of one column. It left the limits out altogether
# before: github.com/onnx/sklearn-onnx/issues/1215.
# Rows of the training with another number than scikit-learn 1.9.1 gives, for each of three columns.
# Seen with onnx 1.23.2, onnxruntime 1.32.0, numpy 2.4.6, CPython 3.11:
#   no limit, one tensor: 0%, 0%, 0%; min_frequency, one tensor: 0%, 100%, 50%; min_frequency, three tensors: 0%, 0%, 0%;
#   max_categories, one tensor: 0%, 100%, 50%; max_categories, three tensors: 0%, 0%, 0%
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
from skl2onnx.common.data_types import Int64TensorType
from sklearn.preprocessing import OrdinalEncoder

# Four categories, 0 to 3, and how many of 100 rows have each.
counts = ((5, 40, 5, 50), (40, 5, 50, 5), (5, 45, 45, 5))
table = np.stack([np.repeat(np.arange(4), count) for count in counts], axis=1)


def ask(tensors, **limit):
    encoder = OrdinalEncoder(dtype=np.int64, **limit).fit(table)
    inputs = {f"column{n}": part for n, part in enumerate(np.split(table, tensors, axis=1))}
    types = [(name, Int64TensorType([None, part.shape[1]])) for name, part in inputs.items()]
    written = to_onnx(encoder, initial_types=types, target_opset={"": 21, "ai.onnx.ml": 3}).SerializeToString()
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    return (session.run(None, inputs)[0] != encoder.transform(table)).mean(axis=0).tolist()


found = {"no limit, one tensor": ask(1)}
for limit in ({"min_frequency": 20}, {"max_categories": 3}):
    for tensors, text in ((1, "one tensor"), (3, "three tensors")):
        found[f"{next(iter(limit))}, {text}"] = ask(tensors, **limit)
print("; ".join(f"{name}: " + ", ".join(f"{share:.0%}" for share in shares) for name, shares in found.items()))
for name, shares in found.items():
    limited = not name.startswith("no limit") and name.endswith("one tensor")
    assert shares[0] == 0, name
    assert all(share > 0 for share in shares[1:]) if limited else not any(shares), name
PYTHON
