"""Detectors as Ultralytics, torchvision and others export them, with random weights: from a file to a folder."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save
from PIL import Image

from edge_inference.models.package import ModelPackageError
from tools import model, model_init
from tools.detections import seen_detection
from tools.model_init import ModelInitError, init

SIDE, LABELS = 96, 80


class Graph:
    """A graph under construction, with weights drawn at random."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, kind: str, *inputs: str, to: str = "", **how: Any) -> str:
        name = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **how))
        return name

    def convolution(self, value: str, inputs: int, outputs: int, stride: int) -> str:
        weights = self.random.normal(0, 0.3, (outputs, inputs, stride, stride)).astype(np.float32)
        return self.add("Conv", value, self.constant(weights), strides=[stride, stride], kernel_shape=[stride, stride])

    def save(self, file: Path, inputs: dict[str, Any], outputs: dict[str, Any]) -> Path:
        def values(named: dict[str, Any]) -> list[Any]:
            return [
                helper.make_tensor_value_info(name, *about) if isinstance(about, tuple) else
                helper.make_tensor_value_info(name, TensorProto.FLOAT, about)
                for name, about in named.items()
            ]  # fmt: skip

        graph = helper.make_graph(self.nodes, "g", values(inputs), values(outputs), self.constants)
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
        return file


def grid(graph: Graph, values: int, boxes_a_cell: int, side: int = SIDE) -> tuple[str, int]:
    """Heads at strides of 8, 16 and 32, flattened into columns: shape (1, values, count)."""
    parts, count = [], 0
    for stride in (8, 16, 32):
        head = graph.convolution("images", 3, values * boxes_a_cell, stride)
        cells = (side // stride) ** 2 * boxes_a_cell
        count += cells
        parts.append(graph.add("Reshape", head, graph.constant(np.array([1, values, cells]))))
    return graph.add("Concat", *parts, axis=2), count


def ultralytics(file: Path, *, objectness: bool = False, free: bool = False) -> Path:
    """Version 8 and later, (1, 4 + labels, count); or version 5, (1, count, 5 + labels)."""
    graph = Graph()
    values = LABELS + (5 if objectness else 4)
    columns, count = grid(graph, values, 3 if objectness else 1)
    boxes, scores = f"{columns}_b", f"{columns}_s"
    split = graph.constant(np.array([4, values - 4]))
    graph.nodes.append(helper.make_node("Split", [columns, split], [boxes, scores], axis=1))
    placed = graph.add("Mul", graph.add("Sigmoid", boxes), graph.constant(np.float32(SIDE)))
    joined = graph.add("Concat", placed, graph.add("Sigmoid", scores), axis=1, to="" if objectness else "output0")
    if objectness:
        graph.add("Transpose", joined, perm=[0, 2, 1], to="output0")
    shape: list[Any] = [1, count, values] if objectness else [1, values, count]
    batch = "batch" if free else 1
    if free:
        shape = ["batch", values, "anchors"]
    return graph.save(file, {"images": [batch, 3, SIDE, SIDE]}, {"output0": shape})


def end_to_end(file: Path) -> Path:
    """Ultralytics with suppression in the graph: (1, 300, 6)."""
    graph = Graph()
    flat = graph.add("Reshape", graph.convolution("images", 3, 6, 16), graph.constant(np.array([1, 36, 6])))
    boxes = graph.add("Sigmoid", flat)
    scaled = graph.add("Mul", boxes, graph.constant(np.array([SIDE, SIDE, SIDE, SIDE, 1, 0], np.float32)))
    pads = graph.constant(np.array([0, 0, 0, 0, 264, 0]))
    graph.add("Pad", scaled, pads, to="output0")
    return graph.save(file, {"images": [1, 3, SIDE, SIDE]}, {"output0": [1, 300, 6]})


def torchvision(file: Path) -> Path:
    """A picture without a batch, of any size; boxes, classes from 1 on, scores, as many as there are."""
    graph = Graph()
    batched = graph.add("Unsqueeze", "image", graph.constant(np.array([0])))
    head = graph.convolution(batched, 3, 6, 16)
    rows = graph.add("Transpose", graph.add("Reshape", head, graph.constant(np.array([6, -1]))), perm=[1, 0])
    pieces = [f"p{place}" for place in range(3)]
    sizes = graph.constant(np.array([4, 1, 1]))
    graph.nodes.append(helper.make_node("Split", [rows, sizes], pieces, axis=1))
    graph.add("Mul", graph.add("Sigmoid", pieces[0]), graph.constant(np.float32(SIDE)), to="boxes")
    graph.add("Reshape", graph.add("Sigmoid", pieces[1]), graph.constant(np.array([-1])), to="scores")
    classes = graph.add("Mul", graph.add("Sigmoid", pieces[2]), graph.constant(np.float32(LABELS - 1)))
    counted = graph.add("Add", classes, graph.constant(np.float32(1)))
    flat = graph.add("Reshape", counted, graph.constant(np.array([-1])))
    graph.nodes.append(helper.make_node("Cast", [flat], ["labels"], to=TensorProto.INT64))
    return graph.save(
        file,
        {"image": [3, "height", "width"]},
        {"boxes": ["n", 4], "labels": (TensorProto.INT64, ["n"]), "scores": ["n"]},
    )


def detr(file: Path) -> Path:
    graph = Graph()
    flat = graph.add("Reshape", graph.convolution("pixel_values", 3, 4, 16), graph.constant(np.array([1, 36, 4])))
    graph.add("Sigmoid", flat, to="pred_boxes")
    logits = graph.convolution("pixel_values", 3, LABELS + 1, 16)
    graph.add("Reshape", logits, graph.constant(np.array([1, 36, LABELS + 1])), to="logits")
    return graph.save(
        file,
        {"pixel_values": ["batch", 3, SIDE, SIDE]},
        {"logits": ["batch", 36, LABELS + 1], "pred_boxes": ["batch", 36, 4]},
    )


def made(tmp_path: Path, *words: Any) -> tuple[dict[str, Any], list[str], Path]:
    parser = argparse.ArgumentParser()
    model_init.add_arguments(parser)
    options = parser.parse_args([*map(str, words), "--stage", "none", "--pixels", "0-1"])
    lines = list(init(options, model.check, tmp_path / "models"))
    (folder,) = (tmp_path / "models").iterdir()
    return json.loads((folder / "model.json").read_text()), lines, folder


def asked(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the model says of a picture of another size, checked and drawn."""
    picture = tmp_path / "photo.jpg"
    pixels = np.random.default_rng(1).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(picture)
    assert model.main(["check", str(folder), str(picture)]) == 0
    assert model.main(["preview", str(folder), str(picture), "--out", str(tmp_path / "preview.html")]) == 0
    assert "photo.jpg, 160 x 90" in (tmp_path / "preview.html").read_text()
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["v8", "v8 with free sizes", "v5"])
def test_a_raw_grid_becomes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    file = ultralytics(tmp_path / "yolo.onnx", objectness=kind == "v5", free="free" in kind)

    declared, lines, folder = made(tmp_path, file, "--labels", LABELS)

    assert declared["task"] == "object-detection"
    assert declared["detection"] == {"form": "grid"}
    assert declared["inputs"][0]["shape"] == [1, 3, SIDE, SIDE]
    assert "the outputs are read as form grid" in lines
    assert " at " in asked(folder, tmp_path, capsys)


@pytest.mark.parametrize("objectness", [False, True])
def test_a_grid_is_known_by_its_cells_and_asks_for_labels(tmp_path: Path, *, objectness: bool) -> None:
    with pytest.raises(ModelInitError, match="--labels must be given, such as --labels cat,dog or a file"):
        made(tmp_path, ultralytics(tmp_path / "yolo.onnx", objectness=objectness))


def test_rows_become_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared, _, folder = made(tmp_path, end_to_end(tmp_path / "yolo.onnx"), "--labels", LABELS)

    assert declared["task"] == "object-detection"
    assert declared["detection"] == {"form": "rows"}
    assert "photo.jpg: " in asked(folder, tmp_path, capsys)


def test_torchvisions_outputs_become_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = torchvision(tmp_path / "fasterrcnn.onnx")

    declared, _, folder = made(tmp_path, file, "--labels", LABELS, "--size", f"{SIDE}x{SIDE}")

    assert declared["inputs"] == [{"name": "image", "dtype": "float32", "shape": [3, SIDE, SIDE]}]
    assert declared["detection"] == {
        "form": "separate", "boxes": "boxes", "scores": "scores", "classes": "labels", "firstClass": 1,
    }  # fmt: skip
    assert {each["name"]: each["shape"] for each in declared["outputs"]} == {
        "boxes": [-1, 4], "labels": [-1], "scores": [-1],
    }  # fmt: skip
    assert "photo.jpg: " in asked(folder, tmp_path, capsys)


def test_logits_with_a_class_for_nothing_become_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared, _, folder = made(tmp_path, detr(tmp_path / "detr.onnx"), "--labels", LABELS)

    assert declared["detection"] == {
        "form": "separate", "boxes": "pred_boxes", "scores": "logits", "coordinates": "center", "unit": "share",
        "activation": "softmax",
    }  # fmt: skip
    assert "photo.jpg: " in asked(folder, tmp_path, capsys)


@pytest.mark.parametrize(
    ("outputs", "labels", "found"),
    [
        # TensorFlow's, with what nobody needs.
        (
            {
                "detection_boxes": [1, 9, 4], "detection_scores": [1, 9], "detection_classes": [1, 9],
                "num_detections": [1], "raw_detection_scores": [1, 50, 91],
            },
            0,
            {
                "form": "separate", "boxes": "detection_boxes", "scores": "detection_scores",
                "classes": "detection_classes", "count": "num_detections", "coordinates": "corners-yx",
                "unit": "share", "firstClass": 1,
            },
        ),
        (
            {"num_dets": [1, 1], "det_boxes": [1, 9, 4], "det_scores": [1, 9], "det_classes": [1, 9]},
            0,
            {"form": "separate", "boxes": "det_boxes", "scores": "det_scores", "classes": "det_classes",
             "count": "num_dets"},
        ),
        ({"boxes": [1, 50, 4], "y": [1, 50, 21]}, 20, {"form": "separate", "boxes": "boxes", "scores": "y"}),
        # No detectors: features, a segmentation, two heads without boxes.
        ({"features": [1, 197, 768]}, 0, None),
        ({"masks": [1, 21, 64, 64]}, 0, None),
        ({"age": [1, 1], "sex": [1, 2]}, 0, None),
    ],
)  # fmt: skip
def test_knows_a_detector_by_its_outputs(outputs: dict[str, list[int]], labels: int, found: dict[str, Any]) -> None:
    picture = {"name": "x", "dtype": "float32", "shape": [1, 3, 640, 640]}
    given = [{"name": name, "dtype": "float32", "shape": shape} for name, shape in outputs.items()]

    assert seen_detection(picture, given, labels) == found


def test_labels_that_the_grid_has_no_place_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelPackageError, match=r"must have 10 or 11 values a candidate .* check the labels"):
        made(tmp_path, ultralytics(tmp_path / "yolo.onnx"), "--labels", "6", "--task", "object-detection")
    assert not (tmp_path / "models").exists()
