"""Trains the digit recogniser: the same data, split, seed and therefore accuracy at every run.

python -m tools.train_digits [--output edge_assets/models/digits] [--hidden 256]

Needs `make setup-dev`.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.model_folder import write_trained
from tools.onnx_graphs import Layer, perceptron
from tools.set_up import require

DIGITS = Path(__file__).resolve().parents[1] / "edge_assets" / "models" / "digits"
#: The darkest value of the data set's images; in a PNG it becomes 255.
MAXIMUM = 16
HELD_OUT = 360
SEED = 0
HIDDEN = 256
EPOCHS = 40

Images = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Scikit-learn's digits in two parts; images (count, 8, 8) with values 0 to 16, labels (count,)."""

    train_images: Images
    train_labels: Labels
    held_out_images: Images
    held_out_labels: Labels


def split_digits() -> Split:
    """Load the data set and hold images out that training never sees, each digit in its share.

    Returns:
        1,437 images to train with and 360 held out.
    """
    from sklearn.datasets import load_digits  # not part of `make setup`
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    parts = train_test_split(
        digits.images, digits.target, test_size=HELD_OUT, stratify=digits.target, random_state=SEED
    )
    return Split(parts[0], parts[2], parts[1], parts[3])


def train(images: Images, labels: Labels, hidden: int = HIDDEN) -> list[Layer]:
    """Train a perceptron with one hidden layer on the images and on their shifts by one pixel.

    Args:
        images: Shape (count, 8, 8), values 0 to 16.
        labels: Shape (count,), 0 to 9.
        hidden: Units of the hidden layer.

    Returns:
        Weights and bias of each layer, for inputs from 0 to 1.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    shifted = np.concatenate(
        [_shift(images, down, right) for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    )
    inputs = shifted.reshape(len(shifted), -1) / MAXIMUM
    network = MLPClassifier((hidden,), max_iter=EPOCHS, alpha=1e-3, random_state=SEED)
    with warnings.catch_warnings():
        # The number of epochs is chosen, not a failure to converge.
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(inputs, np.tile(labels, len(shifted) // len(images)))
    return list(zip(network.coefs_, network.intercepts_, strict=True))


def accuracy(layers: Sequence[Layer], images: Images, labels: Labels) -> float:
    """Compute the share of right answers in plain numpy.

    Args:
        layers: As `train` returns them.
        images: Shape (count, 8, 8), values 0 to 16.
        labels: Shape (count,).

    Returns:
        From 0 to 1.
    """
    values = images.reshape(len(images), -1) / MAXIMUM
    for number, (weights, bias) in enumerate(layers):
        values = values @ weights + bias
        if number < len(layers) - 1:
            values = np.maximum(values, 0)
    return float(np.mean(values.argmax(axis=1) == labels))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and write model.onnx and samples.npz.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code 0; 2, at once, where scikit-learn or onnx is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.train_digits", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=DIGITS, help="folder to write to (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=HIDDEN, help="units of the hidden layer (default: %(default)s)")
    options = parser.parse_args(arguments)
    require(parser.prog, "dev", "sklearn", "onnx")
    split = split_digits()
    layers = train(split.train_images, split.train_labels, options.hidden)
    model = perceptron("digits", "image", (1, 1, 8, 8), "logits", layers)
    samples = {"images": split.held_out_images.astype(np.uint8), "labels": split.held_out_labels.astype(np.uint8)}
    share = accuracy(layers, split.held_out_images, split.held_out_labels)
    said = f"{share:.4f} of {len(split.held_out_labels)} held-out images recognised"
    write_trained(options.output, model, samples, said)
    return 0


def _shift(images: Images, down: int, right: int) -> Images:
    """Move images by at most one pixel; what comes in from outside is background."""
    height, width = images.shape[1:]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


if __name__ == "__main__":
    sys.exit(main())
