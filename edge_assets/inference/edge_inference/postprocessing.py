"""From a model's output to labels with probabilities."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Score(NamedTuple):
    """A label and its probability, 0 to 1."""

    label: str
    probability: float


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
        The best first; equal values in the order of the classes.

    Raises:
        ValueError: A value is not finite, which no input may cause in a sound model.
    """
    left = _finite(values)
    highest = left[left.argmax()]
    # The largest is subtracted first, so that no exponential overflows.
    total = 1.0 if probabilities else float(np.add.reduce(np.exp(left - highest)))
    scores = []
    for _ in range(min(count, len(left))):
        # One after the other, the first of equals: few are asked for, and sorting a thousand classes takes longer.
        place = int(left.argmax())
        value = float(left[place])
        scores.append(Score(labels[place], value if probabilities else math.exp(value - highest) / total))
        left[place] = -math.inf
    return scores


def _finite(values: NDArray[np.float32]) -> NDArray[np.float64]:
    finite = values.astype(np.float64)
    # One pass: NaN and infinity stay in a sum.
    if not math.isfinite(np.add.reduce(finite)):
        raise ValueError("a model's output must be finite, got NaN or infinity")
    return finite
