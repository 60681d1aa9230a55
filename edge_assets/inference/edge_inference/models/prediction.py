"""What a model says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Score(NamedTuple):
    """A label, its probability, 0 to 1, and of an object left, top, right, bottom in the picture's pixels."""

    label: str
    probability: float
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Prediction:
    """What a model says about one input.

    Args:
        version: Version of the model's package.
        scores: The most probable labels, or objects, the best first; none for raw tensors.
        outputs: Name of each tensor to its nested lists; empty but for raw tensors.
        notice: What whoever reads the answer must know of the model; mostly empty.
        size: Width and height of the picture, upright, in which objects were looked for; None unless they were.
        measures: Statistics of the input by name; empty where the model has no reference to compare them with.
    """

    version: str
    scores: Sequence[Score] = ()
    outputs: Mapping[str, object] = field(default_factory=dict)
    notice: str = ""
    size: tuple[int, int] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)

    def confidence(self, threshold: float) -> float | None:
        """How sure the model is: of the label, or of the object of an answer that it is least sure of.

        Args:
            threshold: Objects of a smaller probability are in no answer.

        Returns:
            From 0 to 1; None where there is no such object, or no probability at all.
        """
        if self.size is None:
            return self.scores[0].probability if self.scores else None
        return min((score.probability for score in self.scores if score.probability >= threshold), default=None)
