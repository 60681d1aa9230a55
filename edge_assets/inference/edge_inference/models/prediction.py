"""What a model says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Score(NamedTuple):
    """A label and its probability, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a model says about one input.

    Args:
        version: Version of the model's package.
        scores: The most probable labels, the best first; none for raw tensors.
        outputs: Name of each tensor to its nested lists; empty for a classification.
        notice: What whoever reads the answer must know of the model; mostly empty.
    """

    version: str
    scores: Sequence[Score] = ()
    outputs: Mapping[str, object] = field(default_factory=dict)
    notice: str = ""
