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
    return _softmax(_finite(logits))


def top_k(
    values: NDArray[np.float32], labels: Sequence[str], count: int, *, probabilities: bool = False
) -> list[Score]:
    """Choose the most probable labels.

    Args:
        values: Shape (classes,): logits, or probabilities.
        labels: One a class, in the order of the classes.
        count: How many to return, at least 1; all when there are fewer.
        probabilities: Whether the values are probabilities already.

    Returns:
        The best first; equal probabilities in the order of the classes.

    Raises:
        ValueError: A value is not finite.
    """
    finite = _finite(values)
    count = min(count, len(finite))
    # Only the best are sorted: most of a thousand classes are of no interest.
    last = np.partition(finite, -count)[-count]
    best = np.flatnonzero(finite >= last)
    order = best[np.argsort(-finite[best], kind="stable")][:count]
    shares = (finite if probabilities else _softmax(finite))[order]
    return [Score(labels[place], float(share)) for place, share in zip(order, shares, strict=True)]


def _softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    exponentials = np.exp(values - values.max())
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum()
    return probabilities


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    finite = np.asarray(values, dtype=np.float64)
    if not np.isfinite(finite).all():
        raise ValueError("a model's output must be finite, got NaN or infinity")
    return finite
