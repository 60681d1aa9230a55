"""A candidate beside the model in use: it answers the same inputs, later, and what differs is counted.

Sums and fixed bins only, so that what several devices tell can be added up.
"""

import contextlib
import itertools
import logging
import math
import os
import queue
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from edge_inference.messages import Prediction, Request, Score
from edge_inference.models.store import Workload

log = logging.getLogger(__name__)

#: Inputs that wait for the candidate; more are not looked at.
WAITING = 8
#: A candidate works for at most this share of the time.
SHARE = 0.25
QUIET_POLL_S = 0.01
#: Bins a doubling of the ratio of two latencies, and how many there are on either side.
RATIO_BINS, MOST_BINS = 8, 40
SHOWN = 5
#: Two boxes of one object.
OVERLAP = 0.5
#: Two tensors that are the same but for another order of sums.
TOLERANCE = 1e-3
NICENESS = 19


def agree(first: Prediction, second: Prediction, threshold: float = 0.0) -> bool:
    """Whether two models say the same: the same best label, the same objects, or tensors of nearly the same values.

    Args:
        first: Of the one.
        second: Of the other.
        threshold: Objects of a smaller probability are in no answer.
    """
    if first.size is not None or second.size is not None:
        return _same_objects(
            *([score for score in each.scores if score.probability >= threshold] for each in (first, second))
        )
    if first.scores and second.scores:
        return first.scores[0].label == second.scores[0].label
    if not first.outputs or first.outputs.keys() != second.outputs.keys():
        return False
    return all(_close(value, second.outputs[name]) for name, value in first.outputs.items())


def _same_objects(first: Sequence[Score], second: Sequence[Score]) -> bool:
    left = list(second)
    for each in first:
        found = next((other for other in left if other.label == each.label and _overlap(each, other) >= OVERLAP), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _overlap(first: Score, second: Score) -> float:
    """Intersection over union of two boxes."""
    one, other = first.box or (0.0,) * 4, second.box or (0.0,) * 4
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return common / (areas - common) if areas > common else 0.0


def _close(first: object, second: object) -> bool:
    try:
        return bool(np.allclose(np.asarray(first), np.asarray(second), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    except (TypeError, ValueError):
        return first == second


def named(prediction: Prediction, threshold: float = 0.0) -> str:
    """What a model says, in a word: the best label, or the labels of the objects."""
    if prediction.size is None:
        return prediction.scores[0].label if prediction.scores else "tensors"
    labels = sorted(score.label for score in prediction.scores if score.probability >= threshold)
    return ", ".join(labels) or "nothing"


class Compared(NamedTuple):
    """An input that the model in use has answered.

    Args:
        request: The input.
        prediction: The answer.
        latency_ms: How long it took.
    """

    request: Request
    prediction: Prediction
    latency_ms: float


#: Takes inputs on which the two differ much, with an id and what the candidate says; never blocks and never raises.
Keep = Callable[[str, Compared, Prediction], None]


class Sketch:
    """What comparisons gave so far, in constant memory; safe from any thread.

    Args:
        current: Version of the model in use.
        candidate: Version of the other one.
        memory_mb: That the candidate takes.
    """

    def __init__(self, current: str, candidate: str, memory_mb: float) -> None:
        self.versions = (current, candidate)
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._ratios: Counter[int] = Counter()
        self._shifts: Counter[int] = Counter()
        self._differed: list[dict[str, Any]] = []

    def add(self, compared: Compared, candidate: Prediction | None, latency_ms: float, threshold: float) -> str | None:
        """Count an input.

        Args:
            compared: What the model in use said of it.
            candidate: What the candidate said; None where it failed.
            latency_ms: How long that took.
            threshold: Of objects that count.

        Returns:
            An id for it where it is one of those that differ most; else None.
        """
        current = compared.prediction
        same = candidate is not None and agree(current, candidate, threshold)
        first, second = current.confidence(threshold) or 0.0, 0.0
        if candidate is not None:
            second = candidate.confidence(threshold) or 0.0
        ratio = math.log2(max(latency_ms, 1e-3) / max(compared.latency_ms, 1e-3)) * RATIO_BINS
        truth = compared.request.label
        with self._lock:
            self._counts.update(inputs=1, agreed=int(same))
            if truth is not None:
                right = candidate is not None and named(candidate, threshold) == truth
                self._counts.update(labelled=1, right=int(right), current_right=int(named(current, threshold) == truth))
            self._ratios[max(-MOST_BINS, min(MOST_BINS, math.ceil(ratio - 1e-6)))] += 1
            self._shifts[round((second - first) * 10)] += 1
            # Both sure, of different things: the most that two models can differ.
            by = 0.0 if same else round(max(first, second), 4)
            if same or (len(self._differed) == SHOWN and by <= self._differed[-1]["by"]):
                return None
            identifier = uuid.uuid4().hex[:12]
            said = "failed" if candidate is None else named(candidate, threshold)
            entry = {"id": identifier, "current": named(current, threshold)[:40], "candidate": said[:40], "by": by}
            self._differed = sorted([*self._differed, entry], key=lambda each: -float(each["by"]))[:SHOWN]
            return identifier

    def report(self) -> dict[str, Any]:
        """What heartbeats tell: at most about 1.5 kB."""
        with self._lock:
            return {
                "current": self.versions[0],
                "version": self.versions[1],
                **{name: self._counts[name] for name in ("inputs", "agreed", "labelled", "right", "current_right")},
                "ratios": {str(place): count for place, count in sorted(self._ratios.items())},
                "shifts": {str(place): count for place, count in sorted(self._shifts.items())},
                "memory_mb": round(self._memory_mb, 1),
                "differed": list(self._differed),
            }


class Shadow:
    """Runs a candidate on inputs that were answered, when nobody waits for an answer.

    Args:
        candidate: The model, loaded and warm.
        sketch: Counts what it says.
        is_quiet: Tells whether no input waits and every answer has left.
        keep: Takes inputs on which the two differ much.
    """

    def __init__(self, candidate: Workload, sketch: Sketch, is_quiet: Callable[[], bool], keep: Keep) -> None:
        self.sketch = sketch
        self._candidate = candidate
        self._is_quiet = is_quiet
        self._keep = keep
        self._waiting: queue.Queue[tuple[Compared, int, float] | None] = queue.Queue(WAITING)
        self._ended = threading.Event()
        threading.Thread(target=self._run, name=f"candidate-{sketch.versions[1]}", daemon=True).start()

    def offer(self, compared: Compared, count: int, threshold: float) -> None:
        """Take an input where there is room; never blocks.

        Args:
            compared: What the model in use said of it.
            count: Labels, or objects, that were asked for.
            threshold: Of objects that count.
        """
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait((compared, count, threshold))

    def end(self) -> None:
        """Look at nothing more."""
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        try:
            # Of this thread alone, on Linux: answers go first where there are fewer cores than work.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        except OSError:
            log.debug("the candidate's thread keeps its priority")
        while not self._ended.is_set() and (item := self._waiting.get()) is not None:
            while not self._is_quiet():
                if self._ended.wait(QUIET_POLL_S):
                    return
            started = time.perf_counter()
            try:
                self._compare(*item)
            except Exception:
                log.exception("an input is not compared")
            # A candidate that is slow must not take a core for itself.
            self._ended.wait((time.perf_counter() - started) * (1 / SHARE - 1))

    def _compare(self, compared: Compared, count: int, threshold: float) -> None:
        started = time.perf_counter()
        candidate: Prediction | None = None
        try:
            candidate = self._candidate.predict(compared.request, count)
        except Exception as exc:  # noqa: BLE001 - an input that it cannot answer is one on which it differs
            log.warning("candidate %s fails: %s: %s", self.sketch.versions[1], type(exc).__name__, exc)
        latency_ms = (time.perf_counter() - started) * 1000
        identifier = self.sketch.add(compared, candidate, latency_ms, threshold)
        if identifier is not None and candidate is not None:
            self._keep(identifier, compared, candidate)


def in_turn(reports: Mapping[str, dict[str, Any]], number: int) -> dict[str, Any]:
    """One of several reports, with its name as `model`; empty without any."""
    if not reports:
        return {}
    name, report = next(itertools.islice(reports.items(), number % len(reports), None))
    return {"model": name, **report}
