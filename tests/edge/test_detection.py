"""Detectors as people export them, and pictures as people send them: from outputs to boxes in the picture's pixels."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from edge_inference.captures import CaptureFolder, CaptureQueue
from edge_inference.messages import (
    PAYLOAD_BYTES,
    ErrorCode,
    Prediction,
    Request,
    RequestError,
    Score,
    edge_manager,
    success,
)
from edge_inference.models.detection import CANDIDATES, MOST, Detection, read_detection, suppressed
from edge_inference.models.package import ModelPackageError
from edge_inference.models.pictures import LETTERBOX, ORIENTATION, Preprocessing
from edge_inference.models.runtime import load
from edge_inference.models.store import Workload, load_workload
from edge_inference.settings import ModelSettings
from tests.edge.foreign_model import foreign_model, tensor
from tests.edge.model_folder import ROOT
from tools import train_detector
from tools.detections import Truth, drawn, intersection_over_union, mean_average_precision, truths_of
from tools.model_folder import package
from tools.train_detector import held_out_scenes

FOLDER = ROOT / "edge_assets" / "models" / "digit-detector"
LABELS = ["cat", "dog", "owl"]
WIDTH, HEIGHT = 64, 32
#: Left, top, right, bottom in pixels of the input, place among the labels, score.
OBJECTS = [((8, 4, 24, 20), 0, 0.9), ((40, 8, 60, 30), 2, 0.7)]
BOXES = np.array([box for box, _, _ in OBJECTS], np.float32)
CLASSES = np.array([label for _, label, _ in OBJECTS])
SCORES = np.array([score for _, _, score in OBJECTS], np.float32)
CENTERS = np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], axis=1)
PER_LABEL = (np.eye(3, dtype=np.float32)[CLASSES]) * SCORES[:, None]
SHARES = BOXES / np.array([WIDTH, HEIGHT] * 2, np.float32)


def png(picture: Image.Image | NDArray[np.uint8], orientation: int | None = None, kind: str = "PNG") -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[ORIENTATION] = orientation
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    made.save(stream, kind, exif=exif)
    return stream.getvalue()


def saying(
    folder: Path, outputs: Mapping[str, NDArray[Any]], *, batched: bool = True, free: bool = False, **declaration: Any
) -> Workload:
    """A model that says the same of every picture."""
    nodes: list[Any] = []
    constants = []
    for name, value in outputs.items():
        constants.append(numpy_helper.from_array(value, f"{name}_said"))
        nodes.append(("Identity", [f"{name}_said"], [name], {}))
    shapes = {name: [-1 if free and size == 2 else size for size in value.shape] for name, value in outputs.items()}
    return foreign_model(
        folder,
        [*nodes, ("Identity", ["image"], ["unused"], {})],
        [tensor("image", "float32", [1, 3, HEIGHT, WIDTH] if batched else [3, HEIGHT, WIDTH])],
        [tensor(name, str(value.dtype), shapes[name]) for name, value in outputs.items()],
        constants,
        **(
            {
                "task": "object-detection",
                "labels": LABELS,
                "preprocessing": {"width": WIDTH, "height": HEIGHT, "mode": "RGB"},
            }
            | declaration
        ),
    )


def grid(objectness: bool) -> NDArray[np.float32]:
    """A column a candidate: the two objects, a weaker view of the first, and noise."""
    rows = np.concatenate([CENTERS, *([np.ones((2, 1), np.float32)] if objectness else []), PER_LABEL], axis=1)
    double = rows[:1].copy()
    double[:, 0] += 2
    double[:, -3:] *= 0.8
    noise = np.zeros((8, rows.shape[1]), np.float32)
    noise[:, :4] = np.nan  # of nothing, a box may be anything
    return np.concatenate([noise, double, rows])


#: Outputs as known exporters write them, and what a declaration has to say of each.
EXPORTS: dict[str, tuple[dict[str, NDArray[Any]], dict[str, Any]]] = {
    "yolov8": ({"output0": grid(False).T[None]}, {}),
    "yolov5": ({"output0": grid(True)[None]}, {}),
    "grid of rows": ({"output0": grid(False)[None]}, {"form": "grid"}),
    "grid in shares": (
        {"y": (grid(False) / np.array([WIDTH, HEIGHT] * 2 + [1] * 3, np.float32)).T[None]},
        {"unit": "share"},
    ),
    "grid of half precision": ({"output0": grid(False).T[None].astype(np.float16)}, {}),
    "nms in the graph, as rows": (
        {"output0": np.concatenate([BOXES, SCORES[:, None], CLASSES[:, None]], axis=1)[None].astype(np.float32)},
        {},
    ),
    "rows that are filled up": (
        {
            "output0": np.concatenate(
                [
                    np.concatenate([BOXES, SCORES[:, None], CLASSES[:, None]], axis=1),
                    np.zeros((298, 6)),
                ]
            )[None].astype(np.float32)
        },
        {"minimumScore": 0},
    ),
    "torchvision": (
        {"boxes": BOXES, "labels": CLASSES + 1, "scores": SCORES},
        {"form": "separate", "boxes": "boxes", "scores": "scores", "classes": "labels", "firstClass": 1},
    ),
    "tensorflow": (
        {
            "detection_boxes": np.concatenate([SHARES[:, (1, 0, 3, 2)], np.full((8, 4), 7, np.float32)])[None],
            "detection_scores": np.concatenate([SCORES, np.full(8, 0.99, np.float32)])[None],
            "detection_classes": np.concatenate([CLASSES + 1, np.full(8, 77)])[None].astype(np.float32),
            "num_detections": np.array([2], np.float32),
        },
        {
            "boxes": "detection_boxes",
            "scores": "detection_scores",
            "classes": "detection_classes",
            "count": "num_detections",
            "coordinates": "corners-yx",
            "unit": "share",
            "firstClass": 1,
        },
    ),
    "tensorrt": (
        {
            "num_dets": np.array([[2]], np.int32),
            "det_boxes": BOXES[None],
            "det_scores": SCORES[None],
            "det_classes": CLASSES[None].astype(np.int32),
        },
        {"boxes": "det_boxes", "scores": "det_scores", "classes": "det_classes", "count": "num_dets"},
    ),
    "ssd with a background": (
        {
            "boxes": np.concatenate([BOXES, BOXES + 1])[None],
            "scores": np.concatenate(
                [
                    np.concatenate([np.zeros((2, 1)), PER_LABEL], axis=1),
                    np.concatenate([np.full((2, 1), 0.99), PER_LABEL * 0.6], axis=1),
                ]
            )[None].astype(np.float32),
        },
        {"boxes": "boxes", "scores": "scores", "firstClass": 1},
    ),
    "boxes with an axis more": (
        {"boxes": BOXES[None, :, None], "confs": PER_LABEL[None]},
        {"boxes": "boxes", "scores": "confs"},
    ),
    "detr": (
        {
            "pred_boxes": (CENTERS / np.array([WIDTH, HEIGHT] * 2, np.float32))[None],
            "logits": np.log(np.concatenate([PER_LABEL, 1 - SCORES[:, None]], axis=1) + 1e-9)[None].astype(np.float32),
        },
        {
            "boxes": "pred_boxes",
            "scores": "logits",
            "coordinates": "center",
            "unit": "share",
            "activation": "softmax",
        },
    ),
    "rt-detr": (
        {
            "pred_boxes": (CENTERS / np.array([WIDTH, HEIGHT] * 2, np.float32))[None],
            "logits": np.log(PER_LABEL / (1 - PER_LABEL) + 1e-9)[None].astype(np.float32),
        },
        {
            "boxes": "pred_boxes",
            "scores": "logits",
            "coordinates": "center",
            "unit": "share",
            "activation": "sigmoid",
        },
    ),
}


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("kind", EXPORTS)
def test_an_export_says_the_same_whatever_its_outputs_look_like(tmp_path: Path, kind: str, *, free: bool) -> None:
    outputs, detection = EXPORTS[kind]

    model = saying(tmp_path / "package", outputs, batched=kind != "torchvision", free=free, detection=detection)
    # Twice the input's size: nothing is in the margin.
    found = model.predict(Request(None, image=png(np.zeros((HEIGHT * 2, WIDTH * 2, 3), np.uint8))), 10)

    assert [score.label for score in found.scores] == ["cat", "owl"]
    assert [score.probability for score in found.scores] == pytest.approx([0.9, 0.7], abs=2e-3)
    boxes = np.array([score.box for score in found.scores])
    assert np.abs(boxes - BOXES * 2).max() < 0.1
    assert found.size == (WIDTH * 2, HEIGHT * 2)


def test_suppression_in_the_graph_leaves_any_number_of_rows(tmp_path: Path) -> None:
    """ONNX's own operator: indices of what is kept, then boxes and scores gathered by them."""
    boxes, scores = np.concatenate([BOXES, BOXES + 1])[None], np.concatenate([PER_LABEL, PER_LABEL * 0.6])[None]
    constants = {
        "b": boxes,
        "s": np.ascontiguousarray(scores.transpose(0, 2, 1)),
        "most": np.array([9], np.int64),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "flat": np.array([-1], np.int64),
    }
    model = foreign_model(
        tmp_path / "package",
        [
            ("Identity", ["image"], ["unused"], {}),
            ("NonMaxSuppression", ["b", "s", "most", "overlap", "least"], ["kept"], {}),
            ("Gather", ["kept", "one"], ["c"], {"axis": 1}),
            ("Gather", ["kept", "two"], ["i"], {"axis": 1}),
            ("Reshape", ["c", "flat"], ["classes"], {}),
            ("Reshape", ["i", "flat"], ["place"], {}),
            ("Squeeze", ["b"], ["all"], {}),
            ("Gather", ["all", "place"], ["boxes"], {"axis": 0}),
            ("Squeeze", ["s"], ["every"], {}),
            ("Concat", ["c", "i"], ["where"], {"axis": 1}),
            ("GatherND", ["every", "where"], ["scores"], {}),
        ],
        [tensor("image", "float32", [1, 3, HEIGHT, WIDTH])],
        [
            tensor("boxes", "float32", [-1, 4]),
            tensor("scores", "float32", [-1]),
            tensor("classes", "int64", [-1]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
        task="object-detection",
        labels=LABELS,
        preprocessing={"width": WIDTH, "height": HEIGHT, "mode": "RGB"},
        detection={"boxes": "boxes", "scores": "scores", "classes": "classes"},
    )

    found = model.predict(Request(None, image=png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))), 10).scores

    assert [(score.label, round(score.probability, 3)) for score in found] == [("cat", 0.9), ("owl", 0.7)]


@pytest.mark.parametrize(
    ("detection", "outputs", "text"),
    [
        ({"from": "grid"}, {}, "detection must hold form, coordinates"),
        ({"form": "yolo"}, {}, "detection.form must be one of grid, rows, separate, got 'yolo'"),
        ({"form": 3}, {}, "detection.form must be one of grid, rows, separate, got 3"),
        ({"form": "separate"}, {}, "detection.boxes must name an output, one of output0, got nothing"),
        ({"boxes": "output0"}, {}, "reads one output and names none"),
        ({"form": "rows"}, {}, r"reads a shape of \(1, rows, 6\), got \(1, 7, 50\)"),
        ({"unit": "mm"}, {}, "detection.unit must be one of pixels, share, got 'mm'"),
        ({"activation": None}, {}, "detection.activation must be one of none, sigmoid, softmax, got None"),
        ({"overlap": 1.5}, {}, "detection.overlap must be a number from 0 to 1, got 1.5"),
        ({"minimumScore": "0.5"}, {}, "detection.minimumScore must be a number from 0 to 1, got '0.5'"),
        ({"minimumScore": float("nan")}, {}, "detection.minimumScore must be a number from 0 to 1, got nan"),
        ({"firstClass": True}, {}, "detection.firstClass must be 0 or 1, got True"),
        ({"objectness": 1}, {}, "detection.objectness must be true or false"),
        ({"objectness": True}, {}, "must have 8 values a candidate on one axis"),
        ({"acrossLabels": "no"}, {}, "detection.acrossLabels must be true or false, got 'no'"),
        ({}, {"output0": [1, 9, 9]}, "must have 7 or 8 values a candidate .* of 3 labels, got the shape .*: check"),
        ({}, {"output0": [1, 7, 8]}, "set detection.objectness"),
        ({}, {"output0": [2, 7, 50]}, "must have 7 or 8 values"),
        ({}, {"output0": []}, "must have 7 or 8 values"),
        ({"boxes": "b", "scores": "x"}, {"b": [1, 5, 4], "s": [1, 5]}, "detection.scores must be one of b, s, got 'x'"),
        ({"boxes": "b", "scores": "s"}, {"b": [1, 5, 4], "s": [1, 5]}, "detection.classes must name an output"),
        ({"boxes": "b", "scores": "s"}, {"b": [1, 5, 6], "s": [1, 5, 3]}, "detection.boxes must have the shape"),
        ({"boxes": "b", "scores": "s"}, {"b": [2, 5, 4], "s": [2, 5, 3]}, "detection.boxes must have the shape"),
        ({"boxes": "b", "scores": "s"}, {"b": [1, 5, 4], "s": [3]}, "detection.scores must have a batch of 1"),
    ],
)  # fmt: skip
def test_a_declaration_that_makes_no_sense_is_refused(
    tmp_path: Path, detection: dict[str, Any], outputs: dict[str, list[int]], text: str
) -> None:
    shapes = outputs or {"output0": [1, 7, 50]}
    said = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    with pytest.raises(ModelPackageError, match=text):
        saying(tmp_path / "package", said, detection=detection)


@pytest.mark.parametrize(
    ("preprocessing", "text"),
    [
        ({"fit": "cover"}, "preprocessing fit must be one of stretch, letterbox, got 'cover'"),
        ({"pad": 300}, "preprocessing pad must be a grey from 0 to 255, got 300"),
        ({"pad": 0.5}, "a size must be a whole number, got 0.5"),
        ({"fit": "letterbox", "resize": 64}, "preprocessing resize must be left out with fit letterbox, got 64"),
        ({"width": 63}, r"the input's shape must be \(1, 3, 32, 63\)"),
    ],
)
def test_pictures_are_fitted_in_a_known_way(tmp_path: Path, preprocessing: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelPackageError, match=text):
        saying(
            tmp_path / "package",
            {"output0": grid(False).T[None]},
            preprocessing={"width": WIDTH, "height": HEIGHT, "mode": "RGB"} | preprocessing,
        )


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ((slice(None), 5, NAN), "scores must be finite"),
        ((-1, 5, INFINITE), "scores must be finite"),
        ((-1, 0, NAN), "boxes must be finite"),
        ((-1, 2, INFINITE), "boxes must be finite"),
        ((-1, 6, 8.5), "scores must be from 0 to 1, got 0.72 to 8.5: set detection.activation"),
    ],
)
def test_nonsense_in_an_output_is_an_error_and_no_result(change: tuple[Any, int, float], text: str) -> None:
    values = grid(False)
    values[change[0], change[1]] = change[2]
    detection = read_detection({}, {"y": values.T[None].shape}, 3, (WIDTH, HEIGHT))

    with pytest.raises(ValueError, match=text):
        detection.find({"y": values.T[None]})


def separate(**changes: Any) -> tuple[Detection, dict[str, NDArray[Any]]]:
    outputs: dict[str, NDArray[Any]] = {"b": BOXES, "s": SCORES, "c": CLASSES, "n": np.array([2.0])}
    outputs |= changes
    fields: dict[str, object] = {"boxes": "b", "scores": "s", "classes": "c", "count": "n"}
    shapes: dict[str, tuple[int, ...]] = {"b": (-1, 4), "s": (-1,), "c": (-1,), "n": (1,)}
    return read_detection(fields, shapes, 3, (WIDTH, HEIGHT)), outputs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"c": np.array([0, 3])}, "class must be from 0 to 2, one a label, got 3: set detection.firstClass"),
        ({"c": np.array([-1.0, 0.0])}, "class must be from 0 to 2, one a label, got -1"),
        ({"c": np.array([NAN, 0.0])}, "classes must be finite"),
        ({"c": np.array([0])}, "got 2 boxes, 2 scores, 1 classes"),
        ({"n": np.array([3])}, "count must be from 0 to 2, its boxes, got 3"),
        ({"n": np.array([-1])}, "count must be from 0 to 2"),
        ({"n": np.array([NAN])}, "count must be from 0 to 2"),
    ],
)
def test_outputs_that_do_not_fit_together_are_an_error(changes: dict[str, Any], text: str) -> None:
    detection, outputs = separate(**changes)

    with pytest.raises(ValueError, match=text):
        detection.find(outputs)


def test_nothing_and_boxes_without_an_area_are_nothing() -> None:
    empty = {"b": np.zeros((0, 4)), "s": np.zeros(0), "c": np.zeros(0), "n": np.zeros(1)}
    detection, outputs = separate(**empty)
    assert len(detection.find(outputs).scores) == 0

    turned = BOXES[:, (2, 1, 0, 3)]
    detection, outputs = separate(b=turned)
    assert len(detection.find(outputs).scores) == 0


@pytest.mark.parametrize("alike", [True, False])
def test_tens_of_thousands_of_candidates_give_a_bounded_answer(*, alike: bool) -> None:
    random, count = np.random.default_rng(0), 25_200
    values = np.zeros((1, count, 85), np.float32)
    values[0, :, :2] = random.uniform(0, 640, (count, 2))
    values[0, :, 2:4] = 500 if alike else 2
    values[0, :, 4:] = random.uniform(0.9, 1, (count, 81))
    detection = read_detection({}, {"y": values.shape}, 80, (640, 640))

    found = detection.find({"y": values})

    assert len(found.scores) == MOST if not alike else 0 < len(found.scores) <= MOST
    assert (np.diff(found.scores) <= 0).all()
    assert CANDIDATES > MOST
    scores = [Score("a long label of an object", 0.9, (1234.5, 1234.5, 2345.6, 2345.6))] * 100
    prediction = Prediction("1", scores, size=(3000, 3000))
    answer = success("r", "d", "m", prediction, 1.0)
    assert len(answer) <= PAYLOAD_BYTES
    assert json.loads(answer)["left_out"] == 100 - len(json.loads(answer)["objects"]) > 0
    assert len(edge_manager("object-detection", prediction, 100, 0)) <= PAYLOAD_BYTES


@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20), st.integers(1, 20), st.integers(0, 1)),
        max_size=25,
    ),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
)
def test_suppression_keeps_the_best_of_every_heap(boxes: list[tuple[int, ...]], overlap: float) -> None:
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in boxes], np.float64).reshape(-1, 4)
    labels = np.array([label for *_, label in boxes], np.int64)

    kept = suppressed(corners, labels, overlap).tolist()

    def same(first: int, second: int) -> bool:
        shared = intersection_over_union(corners[first].tolist(), corners[second].tolist())
        return bool(labels[first] == labels[second]) and shared > overlap

    assert kept == sorted(kept)
    for place in range(len(boxes)):
        rivals = [other for other in kept if other < place and same(other, place)]
        assert (place in kept) == (not rivals)


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    wanted=st.tuples(st.integers(1, 640), st.integers(1, 640)),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_a_picture_fills_its_place_in_the_input(size: tuple[int, int], wanted: tuple[int, int], fit: str) -> None:
    place = Preprocessing(*wanted, "L", (0.0,), (1.0,), fit=fit).placement(size)

    whole = place.to_picture(
        np.array([[place.left, place.top, place.left + size[0] * place.across, place.top + size[1] * place.down]])
    )
    np.testing.assert_allclose(whole, [[0, 0, *size]], atol=1e-6)
    assert place.left >= 0
    assert place.left + size[0] * place.across <= wanted[0] + 1e-6
    assert place.top + size[1] * place.down <= wanted[1] + 1e-6


MARK = (30, 10, 50, 40)


def marked(width: int, height: int, mode: str) -> Image.Image:
    """A dark picture with a bright rectangle."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[MARK[1] : MARK[3], MARK[0] : MARK[2]] = 255
    grey = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels.astype(np.uint16) * 257)
    if mode == "LA":
        grey.putalpha(Image.new("L", grey.size, 128))
        return grey
    return grey.convert(mode)


def seen_in(data: bytes, fit: Preprocessing) -> tuple[list[float], tuple[int, int]]:
    """Where the bright rectangle of a picture is, told from the model's input."""
    pixels, size = fit.decode(data)
    bright = pixels[..., 0] > (127 if pixels.dtype == np.uint8 else 0.5)
    rows, columns = (np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0))
    corners = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float64)
    return fit.placement(size).to_picture(corners)[0].tolist(), size


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "I;16"])
@pytest.mark.parametrize("wanted", [(96, 96), (64, 200), (300, 80)])
def test_a_place_of_the_input_is_found_again_in_pictures_of_every_kind(mode: str, wanted: tuple[int, int]) -> None:
    fit = Preprocessing(*wanted, "L", (0.0,), (1.0,), fit=LETTERBOX, pad=0)

    box, size = seen_in(png(marked(120, 60, mode)), fit)

    assert size == (120, 60)
    np.testing.assert_allclose(box, MARK, atol=1.5 / min(wanted[0] / 120, wanted[1] / 60))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8, 99])
def test_a_box_is_that_of_the_upright_picture(orientation: int) -> None:
    upright = marked(120, 60, "RGB")
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    lying = upright.transpose(Image.Transpose[back[orientation]]) if orientation in back else upright
    fit = Preprocessing(80, 80, "RGB", (0.0,) * 3, (1.0,) * 3, fit=LETTERBOX)

    box, size = seen_in(png(lying, orientation, "JPEG"), fit)

    assert size == (120, 60)
    np.testing.assert_allclose(box, MARK, atol=2.5)


def test_a_photograph_that_is_decoded_at_a_smaller_scale_keeps_its_boxes() -> None:
    pixels = np.zeros((1999, 3001, 3), np.uint8)
    pixels[1500:1900, 2000:2900] = 255
    fit = Preprocessing(96, 96, "RGB", (0.0,) * 3, (1.0,) * 3, fit=LETTERBOX, pad=0)

    box, size = seen_in(png(pixels, kind="JPEG"), fit)

    assert size == (3001, 1999)
    np.testing.assert_allclose(box, (2000, 1500, 2900, 1900), atol=32)  # a pixel of the input is 31 of the picture


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    from edge_constructs.model_source import ModelSource

    folder = package(ModelSource.read(FOLDER), tmp_path_factory.mktemp("detector") / "package")
    return load_workload(folder, load)


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 900), (3000, 2), (5, 7)])
def test_a_tiny_or_thin_picture_has_an_answer(digits: Workload, size: tuple[int, int]) -> None:
    found = digits.predict(Request(None, image=png(Image.new("L", size, 90))), 10)

    assert found.size == size
    for score in found.scores:
        assert score.box is not None
        left, top, right, bottom = score.box
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff\xe0cut"])
def test_what_is_no_picture_is_refused(digits: Workload, data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        digits.predict(Request(None, image=data), 10)
    assert caught.value.code is ErrorCode.INVALID_IMAGE

    with pytest.raises(RequestError, match="needs index or image, got features"):
        digits.predict(Request(None, features=[1.0]), 10)
    with pytest.raises(RequestError, match="index must be from 0 to 59, got 60"):
        digits.predict(Request(None, index=60), 10)


def larger(pixels: NDArray[np.uint8], scale: int, right: int, below: int) -> NDArray[np.uint8]:
    """A scene with more pixels, and with a margin of nothing."""
    grown = np.kron(pixels * 15, np.ones((scale, scale), np.uint8))
    return np.pad(grown, ((0, below), (0, right)))


@pytest.mark.parametrize(("scale", "right", "below"), [(1, 0, 0), (2, 0, 0), (3, 1, 2)])
def test_the_committed_detector_finds_digits_that_it_never_saw(
    digits: Workload, scale: int, right: int, below: int
) -> None:
    scenes = held_out_scenes(100, seed=7)
    pictures = [png(larger(scene.pixels, scale, right, below)) for scene in scenes]
    there = [
        [Truth(str(int(label)), [place * scale for place in box]) for label, *box in scene.objects.tolist()]
        for scene in scenes
    ]

    found = [digits.predict(Request(None, image=picture), 100).scores for picture in pictures]

    assert mean_average_precision(found, there) >= 0.9


def test_the_samples_that_travel_with_it_are_found(digits: Workload) -> None:
    there = truths_of(digits.package)
    assert there is not None
    found = [digits.predict(Request(None, index=index), 100).scores for index in range(len(there))]

    assert mean_average_precision(found, there) >= 0.9
    assert (FOLDER / "model.onnx").stat().st_size <= 300_000


def test_precision_is_what_it_is_by_hand() -> None:
    box, far = (0, 0, 10, 10), (50, 50, 60, 60)
    there = [[Truth("a", box), Truth("b", far)], [Truth("a", box)]]

    def said(*scores: tuple[str, float, Sequence[float]]) -> list[Score]:
        return [Score(label, probability, tuple(place)) for label, probability, place in scores]  # type: ignore[arg-type]

    assert mean_average_precision([said(("a", 0.9, box), ("b", 0.9, far)), said(("a", 0.5, box))], there) == 1
    assert mean_average_precision([[], []], there) == 0
    # The second view of the same object is wrong; of "a" the order is right, wrong, right, of "b" there is nothing.
    found = [said(("a", 0.9, box), ("a", 0.8, (1, 1, 10, 10))), said(("a", 0.7, box))]
    assert mean_average_precision(found, there) == pytest.approx((0.5 + 0.5 * 2 / 3) / 2)
    # Too far off to be it.
    assert mean_average_precision([said(("a", 0.9, (8, 8, 18, 18))), []], there) == 0


def test_answers_of_both_forms_have_label_score_and_box() -> None:
    prediction = Prediction(
        "1.2.3", [Score("cat", 0.91, (1.04, 2, 30.26, 40)), Score("dog", 0.2, (0, 0, 5, 5))], size=(100, 80)
    )

    own = json.loads(success("id", "d", "m", prediction, 1, 0.5))
    other = json.loads(edge_manager("object-detection", prediction, 20, 0.5))

    assert own["objects"] == [{"label": "cat", "probability": 0.91, "box": [1.0, 2, 30.3, 40]}]
    assert own["size"] == [100, 80]
    assert not {"label", "top_k", "outputs", "left_out"} & set(own)
    assert other["inference-type"] == "object-detection"
    assert other["inference-results"] == [{"Label": "cat", "Score": 0.91, "Box": [1.0, 2, 30.3, 40]}]
    nothing = Prediction("1.2.3", [], size=(100, 80))
    assert json.loads(success("id", "d", "m", nothing, 1))["objects"] == []
    assert json.loads(edge_manager("object-detection", nothing, 20, 0.5))["inference-results"] == []


def test_a_picture_with_an_object_that_is_doubtful_is_kept_with_its_boxes(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path / "captures")
    captures = CaptureQueue(folder, "thing-1")
    settings = ModelSettings(
        name="m", component="c", request_topic="a", response_topic="b", threshold=0.3, capture_below=0.6
    )
    sure, doubtful = Score("cat", 0.9, (1, 2, 3, 4)), Score("dog", 0.4, (5, 6, 7, 8))
    below = Score("dog", 0.1, (5, 6, 7, 8))
    picture = png(np.zeros((10, 20), np.uint8))
    for request_id, scores in {"sure": [sure, below], "doubtful": [sure, doubtful], "none": []}.items():
        captures.offer(settings, Request(request_id, image=picture), Prediction("1", scores, size=(20, 10)))
    while captures.write_next(0):
        pass

    (capture,) = folder.waiting()
    record = json.loads(capture.record.read_text())
    assert (record["request_id"], record["reason"]) == ("doubtful", "low-confidence")
    assert record["output"] == {
        "objects": [
            {"label": "cat", "probability": 0.9, "box": [1, 2, 3, 4]},
            {"label": "dog", "probability": 0.4, "box": [5, 6, 7, 8]},
        ],
        "size": [20, 10],
    }
    assert capture.picture is not None
    assert capture.picture.read_bytes() == picture


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_boxes_are_drawn_on_the_picture_that_was_sent(mode: str) -> None:
    picture = Image.open(io.BytesIO(drawn(png(marked(120, 60, mode)), [Score("owl", 0.9, (30, 10, 50, 40))])))

    assert picture.size == (640, 320)
    left, top = 30 * 640 / 120, 10 * 640 / 120
    assert picture.getpixel((int(left) + 1, int(top) + 60)) == (224, 0, 122)
    assert picture.getpixel((int(left) + 40, int(top) + 100)) == (255, 255, 255)


def test_the_detectors_script_makes_the_same_scenes_and_model_at_every_run(tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert train_detector.main(["--output", str(tmp_path / name), "--steps", "2"]) == 0

    with np.load(FOLDER / "samples.npz") as committed, np.load(tmp_path / "first" / "samples.npz") as made:
        for name in ("images", "objects"):
            np.testing.assert_array_equal(made[name], committed[name])
    models = [(tmp_path / name / "model.onnx").read_bytes() for name in ("first", "second")]
    assert models[0] == models[1]
    assert len(models[0]) == (FOLDER / "model.onnx").stat().st_size
