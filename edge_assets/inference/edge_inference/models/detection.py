"""How a detector's outputs become objects: what a declaration says of them, and the way from there to boxes.

Two families of exports are read: outputs of boxes, scores and classes (torchvision, TensorFlow, and what has
suppression in its graph), and raw grids with a column a candidate (YOLO: Redmon et al., "You Only Look Once", 2016).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: `grid`: one output, each candidate with its box, maybe that there is something at all, and a score a label; `rows`:
#: one output, each row a box, a score and a class; `separate`: outputs of their own for boxes, scores and classes.
FORMS = GRID, ROWS, SEPARATE = ("grid", "rows", "separate")
#: Of a box: its centre, width and height; its left, top, right, bottom; or its top, left, bottom, right.
COORDINATES = CENTER, CORNERS, CORNERS_YX = ("center", "corners", "corners-yx")
#: Of coordinates: pixels of the model's input, or shares of its width and height.
UNITS = PIXELS, SHARE = ("pixels", "share")
#: What makes probabilities of scores.
ACTIVATIONS = NONE, SIGMOID, SOFTMAX = ("none", "sigmoid", "softmax")
BOXES, SCORES, CLASSES, COUNT = TENSORS = ("boxes", "scores", "classes", "count")
KEYS = (
    *(
        "form",
        "coordinates",
        "unit",
        "objectness",
        "activation",
        "firstClass",
        "overlap",
        "acrossLabels",
        "minimumScore",
    ),
    *TENSORS,
)
#: Objects that one picture may have.
MOST = 300
#: Candidates that suppression looks at: more are noise, and each costs time.
CANDIDATES = 4096
OVERLAP, MINIMUM_SCORE = 0.45, 0.25
#: Rounding in the graph may lift a probability so far above 1.
ROUNDING = 1e-3

Shapes = Mapping[str, tuple[int, ...]]
Array = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """Objects, the most probable first.

    Args:
        corners: Left, top, right, bottom in pixels of the model's input, shape (count, 4).
        scores: From 0 to 1, shape (count,).
        labels: Places among the labels, shape (count,).
    """

    corners: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Detection:
    """How outputs are read.

    Args:
        form: One of `FORMS`.
        tensors: What each output holds, one of `TENSORS`, to its name; of a form with one output, its name as boxes.
        classes: How many labels there are.
        size: Width and height of the model's input.
        axis: Of a grid: where the values of a candidate are, 0 or 1, the batch left out.
        objectness: Of a grid: whether the fifth value says that there is something at all.
        coordinates: One of `COORDINATES`.
        unit: One of `UNITS`.
        activation: One of `ACTIVATIONS`.
        first_class: What the graph calls the first label: 1 where 0 is the background.
        overlap: Intersection over union from which the less probable of two boxes of one label goes; None where the
            graph has seen to that.
        across_labels: Whether it goes, too, where the two have different labels.
        minimum_score: Candidates below it are nothing.
        batched: Whether boxes have a batch in front.
    """

    form: str
    tensors: Mapping[str, str]
    classes: int
    size: tuple[int, int]
    axis: int = 0
    objectness: bool = False
    coordinates: str = CORNERS
    unit: str = PIXELS
    activation: str = NONE
    first_class: int = 0
    overlap: float | None = None
    across_labels: bool = False
    minimum_score: float = MINIMUM_SCORE
    batched: bool = True

    def find(self, outputs: Mapping[str, Array]) -> Found:
        """Find the objects.

        Args:
            outputs: Name of each output to its value.

        Returns:
            At most 300.

        Raises:
            ValueError: The outputs are not what the declaration says, or hold NaN or infinity where an object would be.
        """
        boxes, scores, labels = self._candidates(outputs)
        if not np.isfinite(scores).all():
            raise ValueError("a detector's scores must be finite, got NaN or infinity")
        kept = np.flatnonzero(scores >= self.minimum_score)
        scores = scores[kept].astype(np.float64)
        # The first of equals first, whatever way the sort goes.
        order = np.argsort(-scores, kind="stable")[:CANDIDATES]
        kept, scores = kept[order], scores[order]
        if len(scores) and not -ROUNDING <= scores[-1] <= scores[0] <= 1 + ROUNDING:
            raise ValueError(
                f"a detector's scores must be from 0 to 1, got {scores[-1]:g} to {scores[0]:g}: "
                "set detection.activation"
            )
        corners = self._corners(boxes[kept].astype(np.float64))
        if not np.isfinite(corners).all():
            raise ValueError("a detector's boxes must be finite, got NaN or infinity")
        found = self._labels(labels[kept])
        # A box without an area shows nothing: exports fill their rows up with such.
        real = (corners[:, 2:] > corners[:, :2]).all(axis=1)
        corners, scores, found = corners[real], np.clip(scores[real], 0, 1), found[real]
        chosen = np.arange(min(len(scores), MOST))
        if self.overlap is not None:
            chosen = suppressed(corners, np.zeros_like(found) if self.across_labels else found, self.overlap)
        return Found(corners[chosen], scores[chosen], found[chosen])

    def _candidates(self, outputs: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        """Boxes (count, 4) as the graph has them, scores (count,) and classes (count,)."""
        values = outputs[self.tensors[BOXES]]
        if self.form == SEPARATE:
            return self._separate(outputs)
        values = values[0] if self.batched else values
        if self.form == ROWS:
            return values[:, :4], self._activated(values[:, 4]), values[:, 5]
        columns = values if self.axis == 0 else values.T
        start = 5 if self.objectness else 4
        scores, labels = _best(self._activated(columns[start:], axis=0), axis=0)
        if self.objectness:
            scores = scores * self._activated(columns[4])
        return columns[:4].T, scores, labels + self.first_class

    def _separate(self, outputs: Mapping[str, Array]) -> tuple[Array, Array, Array]:
        def unbatched(what: str) -> Array:
            value = outputs[self.tensors[what]]
            return value[0] if self.batched else value

        boxes = unbatched(BOXES).reshape(-1, 4)
        scores = unbatched(SCORES)
        if scores.ndim == 2 and CLASSES not in self.tensors:
            first, last = self.first_class, self.first_class + self.classes
            if scores.shape[1] not in (last, last + 1):
                raise ValueError(f"a detector must have {last} or {last + 1} scores a box, got {scores.shape[1]}")
            scores, labels = _best(self._activated(scores, axis=1)[:, first:last], axis=1)
            labels = labels + self.first_class
        else:
            scores = self._activated(scores.reshape(-1))
            labels = np.full(len(scores), self.first_class)
            if CLASSES in self.tensors:
                labels = unbatched(CLASSES).reshape(-1)
        if not len(boxes) == len(scores) == len(labels):
            raise ValueError(
                f"a detector must have a score and a class a box, got {len(boxes)} boxes, {len(scores)} scores, "
                f"{len(labels)} classes"
            )
        if COUNT in self.tensors:
            count = float(outputs[self.tensors[COUNT]].reshape(-1)[0])
            if not (count.is_integer() and 0 <= count <= len(boxes)):
                raise ValueError(f"a detector's count must be from 0 to {len(boxes)}, its boxes, got {count:g}")
            boxes, scores, labels = (values[: int(count)] for values in (boxes, scores, labels))
        return boxes, scores, labels

    def _activated(self, scores: Array, axis: int | None = None) -> Array:
        if self.activation == NONE:
            return scores
        wide = scores.astype(np.float64)
        if self.activation == SOFTMAX and axis is not None:
            shares = np.exp(wide - wide.max(axis=axis, keepdims=True))
            activated: Array = shares / shares.sum(axis=axis, keepdims=True)
            return activated
        return 1 / (1 + np.exp(-np.clip(wide, -500, 500)))

    def _corners(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found out behind this
            if self.coordinates == CENTER:
                half = boxes[:, 2:] / 2
                boxes = np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
            elif self.coordinates == CORNERS_YX:
                boxes = boxes[:, (1, 0, 3, 2)]
            return boxes * (self.size * 2) if self.unit == SHARE else boxes

    def _labels(self, classes: Array) -> NDArray[np.int64]:
        if len(classes) and not np.isfinite(classes).all():
            raise ValueError("a detector's classes must be finite, got NaN or infinity")
        labels = np.rint(classes).astype(np.int64) - self.first_class
        wrong = (labels < 0) | (labels >= self.classes)
        if wrong.any():
            last = self.first_class + self.classes - 1
            raise ValueError(
                f"a detector's class must be from {self.first_class} to {last}, one a label, "
                f"got {classes[wrong][0]:g}: set detection.firstClass, or add labels"
            )
        return labels


def suppressed(
    corners: NDArray[np.float64], labels: NDArray[np.int64], overlap: float, most: int = MOST
) -> NDArray[np.int64]:
    """Leave out boxes that show what a more probable box of the same label shows.

    Args:
        corners: The most probable first, shape (count, 4).
        labels: Shape (count,).
        overlap: Intersection over union from which two boxes show the same.
        most: How many to keep.

    Returns:
        Places of those that are kept, in their order.
    """
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    left, kept = np.arange(len(corners)), list[int]()
    while len(left) and len(kept) < most:
        best, left = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(corners[left, 2:], corners[best, 2:]) - np.maximum(corners[left, :2], corners[best, :2])
        shared = sides.clip(min=0).prod(axis=1)
        same = labels[left] == labels[best]
        left = left[~(same & (shared > overlap * (areas[left] + areas[best] - shared)))]
    return np.array(kept, np.int64)


def _best(scores: Array, axis: int) -> tuple[Array, Array]:
    """The highest score and its place; NaN where there is one."""
    return scores.max(axis=axis), scores.argmax(axis=axis)


def read_detection(fields: Mapping[str, object], outputs: Shapes, classes: int, size: tuple[int, int]) -> Detection:
    """Read a declaration's `detection`; what it leaves out follows from the outputs' shapes.

    Args:
        fields: The declaration's.
        outputs: Name of each output to its shape; -1 for a free size.
        classes: How many labels there are.
        size: Width and height of the model's input.

    Raises:
        ValueError: A value breaks a rule, or the outputs do not fit.
    """
    form = _choice(fields, "form", FORMS, SEPARATE if len(outputs) > 1 else _seen_form(outputs, classes))
    tensors = {what: str(fields[what]) for what in TENSORS if fields.get(what) is not None}
    if form != SEPARATE:
        if tensors or len(outputs) != 1:
            raise ValueError(
                f"detection with form {form} reads one output and names none, got {', '.join(outputs)}: "
                f"set detection.form to {SEPARATE}"
            )
        tensors = {BOXES: next(iter(outputs))}
    elif lacking := [what for what in (BOXES, SCORES) if what not in tensors]:
        raise ValueError(f"detection.{lacking[0]} must name an output, one of {', '.join(outputs)}, got nothing")
    for what, name in tensors.items():
        if name not in outputs:
            raise ValueError(f"detection.{what} must be one of {', '.join(outputs)}, got {name!r}")
    shape = outputs[tensors[BOXES]]
    objectness = fields.get("objectness")
    if objectness is not None and (form != GRID or not isinstance(objectness, bool)):
        raise ValueError(f"detection.objectness must be true or false, of a {GRID}, got {objectness!r} of {form}")
    across_labels = fields.get("acrossLabels", False)
    if not isinstance(across_labels, bool):
        raise ValueError(f"detection.acrossLabels must be true or false, got {across_labels!r}")
    axis, is_object = 0, False
    if form == GRID:
        axis, is_object = _grid(shape, classes, objectness)
    elif form == ROWS and not (_is_unbatched(shape) and shape[-1] == 6):
        raise ValueError(f"detection with form {ROWS} reads a shape of (1, rows, 6), got {shape}")
    elif form == SEPARATE:
        _check_separate(tensors, outputs, classes)
    # Where the graph gives one class a box, it has chosen; a grid has not.
    raw = form == GRID or (form == SEPARATE and CLASSES not in tensors)
    return Detection(
        form=form,
        tensors=tensors,
        classes=classes,
        size=size,
        axis=axis,
        objectness=is_object,
        coordinates=_choice(fields, "coordinates", COORDINATES, CENTER if form == GRID else CORNERS),
        unit=_choice(fields, "unit", UNITS, PIXELS),
        activation=_choice(fields, "activation", ACTIVATIONS, NONE),
        first_class=_first_class(fields.get("firstClass", 0)),
        overlap=_overlap(fields, OVERLAP if raw else None),
        across_labels=across_labels,
        minimum_score=_share(fields.get("minimumScore", MINIMUM_SCORE), "minimumScore"),
        batched=len(shape) > 2,
    )


def _seen_form(outputs: Shapes, classes: int) -> str:
    """A last size of 6 is a row's, unless it is what a grid of so many labels has."""
    (shape,) = outputs.values()
    return ROWS if shape[-1:] == (6,) and classes + 4 != 6 and classes + 5 != 6 else GRID


def _is_unbatched(shape: Sequence[int]) -> bool:
    return len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)


def _grid(shape: tuple[int, ...], classes: int, objectness: object) -> tuple[int, bool]:
    wanted = {False: classes + 4, True: classes + 5}
    if isinstance(objectness, bool):
        wanted = {objectness: wanted[objectness]}
    fits = [
        (axis, is_object)
        for axis, size in enumerate(shape[-2:])
        for is_object, values in wanted.items()
        if _is_unbatched(shape) and size == values
    ]
    if len(fits) != 1:
        told = " or ".join(map(str, wanted.values()))
        fix = "set detection.objectness, or export another size" if fits else "check the labels"
        raise ValueError(
            f"a detector's {GRID} must have {told} values a candidate on one axis, its box and a score each of "
            f"{classes} labels, got the shape {shape}: {fix}"
        )
    return fits[0]


def _check_separate(tensors: Mapping[str, str], outputs: Shapes, classes: int) -> None:
    boxes, scores = outputs[tensors[BOXES]], outputs[tensors[SCORES]]
    batched = len(boxes) > 2
    if boxes[-1:] != (4,) or (batched and boxes[0] != 1) or not 2 <= len(boxes) <= 4:
        raise ValueError(f"detection.{BOXES} must have the shape (1, boxes, 4) or (boxes, 4), got {boxes}")
    if len(scores) not in (1 + batched, 2 + batched) or (batched and scores[0] != 1):
        raise ValueError(
            f"detection.{SCORES} must have a batch of 1 as {BOXES} have one, a score a box, or one a box and label, "
            f"got {scores}"
        )
    if len(scores) == 1 + batched and CLASSES not in tensors and classes != 1:
        raise ValueError(f"detection.{CLASSES} must name an output: there is one score a box, and {classes} labels")


def _choice(fields: Mapping[str, object], key: str, known: Sequence[str], default: str) -> str:
    value = fields.get(key, default)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"detection.{key} must be one of {', '.join(known)}, got {value!r}")
    return value


def _first_class(value: object) -> int:
    if value not in (0, 1) or not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"detection.firstClass must be 0 or 1, got {value!r}")
    return value


def _overlap(fields: Mapping[str, object], default: float | None) -> float | None:
    value = fields.get("overlap", default)
    return None if value is None else _share(value, "overlap")


def _share(value: object, key: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1 or math.isnan(value):
        raise ValueError(f"detection.{key} must be a number from 0 to 1, got {value!r}")
    return float(value)
