"""From a model's output to labels with probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Score:
    """A label and its probability, 0 to 1."""

    label: str
    probability: float


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn logits into probabilities.

    Args:
        logits: Shape (classes,), any finite values.

    Returns:
        Shape (classes,), summing to 1; the largest logit is subtracted first, so that no exponential overflows.

    Raises:
        ValueError: A value is not finite, which no input may cause in a sound model.
    """
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a model's output must be finite, got NaN or infinity")
    exponentials = np.exp(values - values.max())
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities


def top_k(logits: NDArray[np.float32], labels: Sequence[str], count: int) -> list[Score]:
    """Choose the most probable labels.

    Args:
        logits: Shape (classes,).
        labels: One a class, in the order of the classes.
        count: How many to return, at least 1; all when there are fewer.

    Returns:
        The best first; equal probabilities in the order of the classes.
    """
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")[:count]
    return [Score(labels[place], float(probabilities[place])) for place in order]
