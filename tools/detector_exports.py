"""Recognises detectors by their graphs: which output holds boxes, scores and classes, and how they are meant."""

from collections.abc import Sequence
from typing import Any

from edge_inference.models.detection import CENTER, CORNERS_YX, GRID, ROWS, SEPARATE, SHARE, SIGMOID, SOFTMAX
from edge_inference.models.package import FLOATS, FREE

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
