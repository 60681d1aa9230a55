"""How the inputs of late differ from the samples that a model was held to: the population stability index."""

import bisect
import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

REFERENCE_BYTES = 64 << 10
#: Fewer samples give no reference: every index would be chance.
LEAST_SAMPLES = 30
#: More are no counts, and the index could not be worked out.
MOST_SAMPLES = 10**9
MOST_BINS = 10
MOST_FEATURES = 32
CONFIDENCE = "confidence"
PICTURE = ("picture.mean", "picture.contrast", "picture.detail")
#: Inputs that the index looks at, and below how many it says nothing.
WINDOW, LEAST = 1000, 200
#: Of a picture so many places are looked at, about: the statistics of all of them are hardly others.
PLACES = 4096
#: So far above its mean, in standard deviations of a normal distribution, chance brings an index once in a million.
BEYOND_CHANCE = 4.753
SHOWN = 5


@dataclass(frozen=True)
class Statistic:
    """One number of each input, and how often it lay in which bin.

    Args:
        name: `confidence`, `picture.mean` … or `features.<name>`.
        edges: Ascending; the bins are below the first one, from each to the next, and from the last one on.
        counts: Samples in each bin.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def place(self, value: float) -> int:
        """The bin of a value."""
        return bisect.bisect_right(self.edges, value)


@dataclass(frozen=True)
class Reference:
    """What a model's own held-out samples look like.

    Args:
        samples: How many there were.
        threshold: Objects of a smaller probability did not count for the confidence.
        statistics: The confidence first; then those of the inputs, in the order of `measure`.
    """

    samples: int
    threshold: float
    statistics: tuple[Statistic, ...]


def measure(values: NDArray[Any], names: Sequence[str] = ()) -> dict[str, float]:
    """Take the statistics of an input.

    Args:
        values: A picture in the size of the model's input, shape (height, width, channels), bytes or 0 to 1; or a row,
            shape (features,).
        names: Of a row's features.

    Returns:
        By name: of a picture the mean, its standard deviation, and the mean difference of neighbours; of a row its
        first 32 features.
    """
    if values.ndim == 1:
        return {f"features.{name}": float(value) for name, value in zip(names[:MOST_FEATURES], values, strict=False)}
    step = max(1, round(math.sqrt(values.shape[0] * values.shape[1] / PLACES)))
    seen = values[::step, ::step].astype(np.float32)
    if values.dtype == np.uint8:
        seen /= np.float32(255)
    detail = float(np.abs(seen[:, 1:] - seen[:, :-1]).mean()) if seen.shape[1] > 1 else 0.0
    return dict(zip(PICTURE, (float(seen.mean()), float(seen.std()), detail), strict=True))


def read_reference(content: bytes) -> Reference:
    """Read a reference's file.

    Raises:
        ValueError: It is no reference; the text says where and why.
    """
    if len(content) > REFERENCE_BYTES:
        raise ValueError(f"a reference must have at most {REFERENCE_BYTES} bytes, got {len(content)}")
    try:
        found = json.loads(content)
        statistics = tuple(_statistic(entry) for entry in found["statistics"])
        reference = Reference(int(found["samples"]), float(found["threshold"]), statistics)
    except KeyError as exc:
        raise ValueError(f"{exc.args[0]} is required in a reference") from exc
    except (TypeError, AttributeError, RecursionError, OverflowError) as exc:
        raise ValueError(f"a reference must be as `python -m tools.model reference` writes it: {exc}") from exc
    if [each.name for each in statistics][:1] != [CONFIDENCE] or len(statistics) > 1 + MOST_FEATURES:
        raise ValueError(f"statistics must be {CONFIDENCE} and at most {MOST_FEATURES} more, got {len(statistics)}")
    if reference.samples < LEAST_SAMPLES:
        raise ValueError(f"samples must be at least {LEAST_SAMPLES}, got {reference.samples}")
    return reference


def _statistic(entry: Mapping[str, Any]) -> Statistic:
    name = entry["name"]
    statistic = Statistic(str(name), tuple(map(float, entry["edges"])), tuple(map(int, entry["counts"])))
    edges, counts = statistic.edges, statistic.counts
    ascending = all(first < second for first, second in pairwise(edges))
    if not (ascending and all(map(math.isfinite, edges)) and 1 <= len(edges) < MOST_BINS + 1):
        raise ValueError(f"{name}: edges must be 1 to {MOST_BINS} ascending numbers, got {edges}")
    if len(counts) != len(edges) + 1 or min(counts) < 0 or not LEAST_SAMPLES <= sum(counts) <= MOST_SAMPLES:
        rule = f"counts must be one more than edges, of {LEAST_SAMPLES} to {MOST_SAMPLES} samples"
        raise ValueError(f"{name}: {rule}, got {len(counts)} for {len(edges)}")
    return statistic


def stability_index(expected: Sequence[int], found: NDArray[np.int64]) -> float:
    """Compute the population stability index, the symmetric Kullback-Leibler divergence of two histograms.

    Half a count is added to each bin, so that an empty one is no infinity.

    Args:
        expected: Counts of the reference.
        found: Counts of late, in the same bins.

    Source:
        B. Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University, 2018.
    """
    first, second = np.asarray(expected, np.float64) + 0.5, found + 0.5
    first /= first.sum()
    second /= second.sum()
    return float(((second - first) * np.log(second / first)).sum())


def by_chance(bins: int, samples: int, inputs: int) -> float:
    """How large the index gets without any drift, once in a million looks.

    It follows (1/samples + 1/inputs) times a chi-squared distribution with bins - 1 degrees of freedom (Yurdakul),
    whose quantile is taken by Wilson and Hilferty's approximation.
    """
    freedom = bins - 1
    part = 2 / (9 * freedom)
    return (1 / samples + 1 / inputs) * freedom * (1 - part + BEYOND_CHANCE * math.sqrt(part)) ** 3


class DriftWindow:
    """Bins of the latest inputs, in constant memory; safe from any thread.

    Args:
        window: How many inputs count.
        least: With fewer nothing is said.
    """

    def __init__(self, window: int = WINDOW, least: int = LEAST) -> None:
        self._window, self._least = window, least
        self._lock = threading.Lock()
        self._reference: Reference | None = None
        self._bins = np.zeros((0, 0), np.uint8)
        self._count = 0

    def add(self, reference: Reference, confidence: float | None, measures: Mapping[str, float]) -> None:
        """Count an input; those of another model's version before it are forgotten.

        Args:
            reference: Of the model that answered.
            confidence: Of the answer; None, where nothing was found, counts as 0.
            measures: What `measure` took; a statistic that is missing is in the first bin.
        """
        values = {CONFIDENCE: confidence or 0.0, **measures}
        row = [each.place(values.get(each.name, -math.inf)) for each in reference.statistics]
        with self._lock:
            if reference is not self._reference:
                self._reference, self._count = reference, 0
                self._bins = np.zeros((self._window, len(row)), np.uint8)
            self._bins[self._count % self._window] = row
            self._count += 1

    def report(self) -> dict[str, Any]:
        """Compare the window with the reference.

        Returns:
            `inputs`, `highest`, the largest index that chance does not explain, or 0, and `psi`, the five largest by
            name; empty while there are too few inputs.
        """
        with self._lock:
            inputs = min(self._count, self._window)
            reference, bins = self._reference, self._bins[:inputs].copy()
        if reference is None or inputs < self._least:
            return {}
        indexes, highest = {}, 0.0
        for number, statistic in enumerate(reference.statistics):
            size = len(statistic.counts)
            index = stability_index(statistic.counts, np.bincount(bins[:, number], minlength=size))
            indexes[statistic.name[:64]] = round(index, 4)
            if index > by_chance(size, reference.samples, inputs):
                highest = max(highest, round(index, 4))
        largest = sorted(indexes.items(), key=lambda item: -item[1])[:SHOWN]
        return {"inputs": inputs, "highest": highest, "psi": dict(largest)}
