"""Trains the iris classifier: the same data, split, seed and therefore accuracy at every run.

python -m tools.train_iris [--output edge_assets/models/iris]

Needs `make setup-dev`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.model_folder import write_trained
from tools.onnx_graphs import Layer, perceptron
from tools.set_up import require

IRIS = Path(__file__).resolve().parents[1] / "edge_assets" / "models" / "iris"
HELD_OUT = 45
SEED = 0


@dataclass(frozen=True)
class Split:
    """Scikit-learn's iris data in two parts; rows (count, 4) in centimetres, labels (count,)."""

    train_rows: NDArray[np.float64]
    train_labels: NDArray[np.int64]
    held_out_rows: NDArray[np.float64]
    held_out_labels: NDArray[np.int64]


def split_iris() -> Split:
    """Load the data set and hold flowers out that training never sees, each species in its share.

    Returns:
        105 flowers to train with and 45 held out.
    """
    from sklearn.datasets import load_iris  # not part of `make setup`
    from sklearn.model_selection import train_test_split

    iris = load_iris()
    parts = train_test_split(iris.data, iris.target, test_size=HELD_OUT, stratify=iris.target, random_state=SEED)
    return Split(parts[0], parts[2], parts[1], parts[3])


def train(rows: NDArray[np.float64], labels: NDArray[np.int64]) -> Layer:
    """Fit a logistic regression on standardised features.

    Args:
        rows: Shape (count, 4), centimetres.
        labels: Shape (count,), 0 to 2.

    Returns:
        Weights (4, 3) and bias (3,) for rows as they are: the standardisation is part of them.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(rows)
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(rows), labels)
    weights = model.coef_.T / scaler.scale_[:, np.newaxis]
    return weights, model.intercept_ - scaler.mean_ @ weights


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and write model.onnx and samples.npz.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code 0; 2, at once, where scikit-learn or onnx is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.train_iris", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=IRIS, help="folder to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    require(parser.prog, "dev", "sklearn", "onnx")
    split = split_iris()
    weights, bias = train(split.train_rows, split.train_labels)
    model = perceptron("iris", "features", (1, 4), "logits", [(weights, bias)])
    samples = {"rows": split.held_out_rows.astype(np.float32), "labels": split.held_out_labels.astype(np.uint8)}
    share = np.mean((split.held_out_rows @ weights + bias).argmax(axis=1) == split.held_out_labels)
    write_trained(options.output, model, samples, f"{share:.4f} of {HELD_OUT} held-out flowers recognised")
    return 0


if __name__ == "__main__":
    sys.exit(main())
