"""Detectors: recognised by their graphs; what one found beside what is there, as mean average precision and drawn."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from edge_inference.messages import Score
from edge_inference.models.detection import CENTER, CORNERS_YX, GRID, ROWS, SEPARATE, SHARE, SIGMOID, SOFTMAX
from edge_inference.models.package import FLOATS, FREE, ModelPackage, ModelPackageError

#: Intersection over union from which an object counts as found.
OVERLAP = 0.5
#: A drawn picture is as large as a page has room for.
SHOWN = 640
FOUND, THERE = "#e0007a", "#00a651"
Box = Sequence[float]


class Truth(NamedTuple):
    """An object that is there: its label, and left, top, right, bottom in pixels."""

    label: str
    box: Box


def truths_of(package: ModelPackage) -> list[list[Truth]] | None:
    """Read what is on a package's samples; see `truths_in`; None without samples.

    Raises:
        ModelPackageError: They do not say it as they must.
    """
    try:
        return None if package.samples is None else truths_in(package.samples[0], package.labels)
    except ValueError as exc:
        raise ModelPackageError(str(exc)) from exc


def truths_in(file: Path, labels: Sequence[str]) -> list[list[Truth]] | None:
    """Read what is on samples.

    Args:
        file: Of samples; it may hold `objects`, shape (count, 6): sample, label, left, top, right, bottom.
        labels: In the order of their numbers.

    Returns:
        The objects of each sample; None where the file does not say.

    Raises:
        ValueError: They have another shape, or a number stands for no sample or label.
    """
    with np.load(file, allow_pickle=False) as arrays:
        if "objects" not in arrays:
            return None
        objects, size = np.asarray(arrays["objects"], np.float64), len(arrays["images"])
    if objects.ndim != 2 or objects.shape[1] != 6:
        raise ValueError(f"{file.name}: objects must have the shape (count, 6), got {objects.shape}")
    places = objects[:, :2].astype(int)
    if ((places < 0) | (places >= (size, len(labels)))).any():
        raise ValueError(f"{file.name}: objects must name samples below {size} and labels below {len(labels)}")
    found: list[list[Truth]] = [[] for _ in range(size)]
    for (sample, label), box in zip(places.tolist(), objects[:, 2:].tolist(), strict=True):
        found[sample].append(Truth(labels[label], box))
    return found


def mean_average_precision(found: Sequence[Sequence[Score]], there: Sequence[Sequence[Truth]]) -> float:
    """Compute the mean over labels of the area under the curve of precision by recall.

    A label's objects of all pictures are gone through, the most probable first; each takes the object of its label that
    it overlaps most and nobody has taken yet. Precision is the best at that recall or a higher one.

    Args:
        found: Objects of each picture.
        there: What each picture shows.

    Returns:
        From 0 to 1; 0 where nothing is there.

    Source: Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010), section 4.2, with all points.
    """
    labels = sorted({truth.label for truths in there for truth in truths})
    return float(np.mean([_average_precision(label, found, there) for label in labels])) if labels else 0.0


def _average_precision(label: str, found: Sequence[Sequence[Score]], there: Sequence[Sequence[Truth]]) -> float:
    left = [[truth.box for truth in truths if truth.label == label] for truths in there]
    count = sum(map(len, left))
    said = [(score, place) for place, scores in enumerate(found) for score in scores if score.label == label]
    right = np.zeros(len(said))
    for rank, (score, place) in enumerate(sorted(said, key=lambda each: -each[0].probability)):
        overlaps = [intersection_over_union(score.box or (), box) for box in left[place]]
        if overlaps and max(overlaps) >= OVERLAP:
            right[rank] = 1
            del left[place][int(np.argmax(overlaps))]
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(said) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(hits / count, prepend=0) * best))


def intersection_over_union(first: Box, second: Box) -> float:
    """How much two boxes have in common, from 0 to 1."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(width * height / (sum(areas) - width * height))


def drawn(
    picture: bytes | NDArray[np.uint8], found: Iterable[Score], there: Iterable[Truth] = (), longer_side: int = SHOWN
) -> bytes:
    """Draw boxes on a picture: what was found with its label and probability, and what is there.

    Args:
        picture: A PNG or JPEG file, or pixels of shape (height, width[, channels]).
        found: In the picture's pixels.
        there: Likewise.
        longer_side: To which the picture is scaled, in pixels.

    Returns:
        A PNG.
    """
    if isinstance(picture, bytes):
        canvas = ImageOps.exif_transpose(Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")))
        deep = canvas.mode.startswith("I")
        if deep:  # 16 bits a pixel
            canvas = Image.fromarray(np.uint8(np.asarray(canvas.convert("F")) / 257))
    else:
        canvas = Image.fromarray(np.squeeze(picture))
    scale = longer_side / max(canvas.size)
    size = (max(round(canvas.width * scale), 1), max(round(canvas.height * scale), 1))
    canvas = canvas.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(canvas)

    def outline(box: Box, colour: str) -> tuple[float, float]:
        left, top, right, bottom = (place * scale for place in box)
        # A line of its own at least, however thin the box.
        pen.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=colour, width=3)
        return left, top

    for truth in there:
        outline(truth.box, THERE)
    for score in found:
        if score.box is None:
            continue
        left, top = outline(score.box, FOUND)
        text = f"{score.label} {score.probability:.2f}"
        across, down = pen.textbbox((0, 0), text, font_size=16)[2:]
        left, top = max(min(left, canvas.width - across - 4), 0), max(top - down - 2, 0)
        pen.rectangle((left, top, left + across + 3, top + down + 2), fill=FOUND)
        pen.text((left + 2, top), text, fill="white", font_size=16)
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()


#: An input or output as a declaration has it: name, dtype, shape; -1 for a free size.
Tensor = dict[str, Any]
#: Cells a side of a picture, in pixels, of the grids of YOLO's exports.
_STRIDES = (8, 16, 32)
#: More rows than suppression leaves.
_MOST_ROWS = 1000
#: TensorFlow's detectors have more outputs beside these, with boxes and scores of an earlier step.
_TENSORFLOW = ("detection_boxes", "detection_scores", "detection_classes", "num_detections")
#: What known exports mean by their boxes, by the output's name.
_BOXES: dict[str, dict[str, Any]] = {
    "detection_boxes": {"coordinates": CORNERS_YX, "unit": SHARE, "firstClass": 1},  # TensorFlow
    "pred_boxes": {"coordinates": CENTER, "unit": SHARE},  # DETR of Hugging Face
}


def is_picture(shape: Sequence[int]) -> bool:
    """Also one without a batch, as torchvision's detectors take it, or with nothing but free sizes, as of Optimum."""
    return (len(shape) in (3, 4) and bool({1, 3} & {shape[-3], shape[-1]})) or is_free(shape)


def is_free(shape: Sequence[int]) -> bool:
    """Whether a picture's channels are free, and with them all else."""
    return len(shape) == 4 and set(shape[1:]) == {FREE}


def seen_detection(
    picture: Tensor, outputs: Sequence[Tensor], labels: int = 0, *, asked: bool = False
) -> dict[str, Any] | None:
    """Recognise a detector's outputs.

    Args:
        picture: The input.
        outputs: Of the graph.
        labels: How many there are; 0 where nobody said.
        asked: Whether it is one for sure.

    Returns:
        A declaration's `detection`, with names of outputs where there are several; None where it is no detector.
    """
    known = [each for each in outputs if each["name"].split(":")[0] in _TENSORFLOW]
    outputs = known if len(known) >= len(_TENSORFLOW) - 1 else outputs
    boxes = [each for each in outputs if each["dtype"] in FLOATS and each["shape"][-1:] == [4]]
    others = [each for each in outputs if each not in boxes]
    if len(boxes) == 1 and others:
        return _separate(boxes[0], others, labels)
    shape = outputs[0]["shape"] if len(outputs) == 1 and outputs[0]["dtype"] in FLOATS else []
    # A batch of classes is no list of candidates, and without a batch there may be a series in place of a picture.
    plain = len(shape) == 2 and shape[0] in (1, picture["shape"][0])
    if len(shape) not in (2, 3) or (not asked and (plain or len(picture["shape"]) == 3)):
        return None
    values, cells = shape[-2:], _cells(picture["shape"])
    said = {labels + 4, labels + 5} if labels else set[int]()
    if values[1] == 6 and (labels not in (1, 2) or (values[0] not in cells and values[0] <= _MOST_ROWS)):
        return {"form": ROWS}
    return {"form": GRID} if asked or len(said & set(values)) == 1 or cells & set(values) else None


def _cells(shape: Sequence[int]) -> set[int]:
    """How many candidates grids of one or three boxes a cell have."""
    down, across = shape[1:3] if shape[-1] in (1, 3) else shape[-2:]
    count = sum((down // stride) * (across // stride) for stride in _STRIDES)
    return {count, 3 * count} if min(down, across) >= max(_STRIDES) else set()


def _separate(boxes: Tensor, others: Sequence[Tensor], labels: int) -> dict[str, Any] | None:
    def named(*words: str, dtypes: Sequence[str]) -> Tensor | None:
        fits = [each for each in others if any(word in each["name"].lower() for word in words)]
        return next((each for each in fits if each["dtype"] in dtypes), None)

    numbers = (*FLOATS, "int64", "int32")
    scores = named("score", "conf", "logit", "prob", dtypes=FLOATS)
    classes = named("class", "label", dtypes=numbers)
    if classes is scores:
        classes = None
    floats = [each for each in others if each["dtype"] in FLOATS and each is not classes]
    scores = scores or (floats[0] if len(floats) == 1 else None)
    if scores is None:
        return None
    found: dict[str, Any] = {"form": SEPARATE, "boxes": boxes["name"], "scores": scores["name"]}
    if classes is not None and len(classes["shape"]) <= len(boxes["shape"]) - 1:
        found["classes"] = classes["name"]
        if classes["name"] == "labels" and classes["dtype"] == "int64":
            found["firstClass"] = 1  # torchvision calls the background 0
    if count := named("num", "count", dtypes=numbers):
        found["count"] = count["name"]
    known = next((fields for name, fields in _BOXES.items() if name in boxes["name"]), {})
    if "pred_boxes" in boxes["name"]:  # with a class more for what is no object, or without
        known = {**known, "activation": SOFTMAX if scores["shape"][-1] == labels + 1 else SIGMOID}
    return found | known


def box_values(values: Any, detection: dict[str, Any], labels: int) -> Any:
    """The part of an output that holds the boxes."""
    if detection["form"] == SEPARATE:
        return values
    columns = detection["form"] == GRID and values.shape[-2] in (labels + 4, labels + 5)
    return values[..., :4, :] if columns else values[..., :4]
