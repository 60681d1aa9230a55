"""Trains the digit detector: the same scenes, split, seed and therefore precision at every run.

python -m tools.train_detector [--output edge_assets/models/digit-detector] [--steps 5000]

Scikit-learn's digits are scattered over canvases: turned, stretched, dimmed, with noise and strokes between them. The
network looks at a window around each cell of a grid: two hidden layers, as convolutions. Needs `make setup-dev`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tools.model_folder import write_trained
from tools.onnx_graphs import checked
from tools.set_up import require
from tools.train_digits import MAXIMUM, split_digits

if TYPE_CHECKING:
    from onnx import ModelProto

FOLDER = Path(__file__).resolve().parents[1] / "edge_assets" / "models" / "digit-detector"
SIDE, HELD_OUT_SCENES, SEED, CLASSES = 96, 60, 0, 10
#: Pixels of a cell of the grid; of the window around it, after the picture was halved; of a typical digit.
CELL, WINDOW, TYPICAL = 4, 14, 18.0
CELLS = SIDE // CELL
HIDDEN = (176, 96)
STEPS, SCENES_A_STEP = 5000, 6
#: Cells whose centre lies so near to a digit's learn it; those between the two learn nothing.
NEAR, FAR, FAR_WEIGHT = 3.0, 5.0, 4

Values = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """A canvas and what is on it.

    Attributes:
        pixels: Shape (SIDE, SIDE), whole numbers from 0 to 16.
        objects: Shape (digits, 5): label, left, top, right, bottom of the ink.
    """

    pixels: NDArray[np.uint8]
    objects: Values


def make_scene(random: np.random.Generator, images: NDArray[np.float64], labels: NDArray[np.int64]) -> Scene:
    """Scatter two to six digits over a canvas; none touches another.

    Args:
        random: Decides everything.
        images: Shape (count, 8, 8), values 0 to 16.
        labels: Shape (count,).
    """
    across, down = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    canvas = random.uniform(0, 0.15) * (1 + across * random.uniform(-1, 1) + down * random.uniform(-1, 1)) / 2
    strokes = Image.new("L", (SIDE, SIDE))
    for _ in range(random.integers(0, 4)):
        start, turn, length = random.uniform(0, SIDE, 2), random.uniform(0, 2 * np.pi), random.uniform(5, 14)
        end = start + length * np.array([np.cos(turn), np.sin(turn)])
        ImageDraw.Draw(strokes).line([*start, *end], fill=int(random.uniform(80, 200)), width=2)
    objects: list[tuple[float, ...]] = []
    free = np.ones((SIDE, SIDE), bool)
    for _ in range(random.integers(2, 7)):
        number = int(random.integers(len(labels)))
        ink = _drawn(random, images[number])
        height, width = ink.shape
        left, top = (int(random.integers(0, SIDE - size + 1)) for size in (width, height))
        if not free[max(top - 1, 0) : top + height + 1, max(left - 1, 0) : left + width + 1].all():
            continue
        free[top : top + height, left : left + width] = False
        part = canvas[top : top + height, left : left + width]
        np.maximum(part, ink, out=part)
        objects.append((labels[number], left, top, left + width, top + height))
    canvas = np.maximum(canvas, np.asarray(strokes) / 255 * free) + random.normal(0, 0.03, canvas.shape)
    pixels = np.rint(np.clip(canvas, 0, 1) * MAXIMUM).astype(np.uint8)
    return Scene(pixels, np.array(objects, np.float32).reshape(-1, 5))


def _drawn(random: np.random.Generator, image: NDArray[np.float64]) -> NDArray[np.float64]:
    """A digit, larger and turned a little, cut to its ink; 0 to 1."""
    picture = Image.fromarray(np.float32(np.pad(image, 2) / MAXIMUM))
    scale = random.uniform(2.0, 3.0)
    size = [round(12 * scale * random.uniform(0.9, 1.1)) for _ in range(2)]
    picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC).rotate(
        random.uniform(-10, 10), Image.Resampling.BILINEAR
    )
    ink = np.clip(np.asarray(picture, np.float64), 0, 1)
    rows, columns = (np.flatnonzero((ink > 0.2).any(axis=axis)) for axis in (1, 0))
    cut = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return cut * random.uniform(0.6, 1.0)


def windows(pixels: NDArray[np.uint8]) -> Values:
    """Cut the window around each cell out of a scene, as the graph's first convolution does.

    Args:
        pixels: Shape (SIDE, SIDE), 0 to 16.

    Returns:
        Shape (cells, WINDOW * WINDOW), row by row.
    """
    halved = (pixels.astype(np.float32) / MAXIMUM).reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    margin = (WINDOW - 2) // 2
    found = np.lib.stride_tricks.sliding_window_view(np.pad(halved, margin), (WINDOW, WINDOW))[::2, ::2]
    return found.reshape(CELLS * CELLS, WINDOW * WINDOW)


def centres() -> Values:
    """Centres of the cells: shape (cells, 2), x and y in pixels, row by row."""
    place = np.arange(CELLS, dtype=np.float32) * CELL + CELL / 2
    return np.stack(np.meshgrid(place, place), axis=-1).reshape(-1, 2)


def targets(objects: Values) -> tuple[Values, Values, NDArray[np.bool_]]:
    """What the network should say of a scene.

    Args:
        objects: As a scene has them.

    Returns:
        Classes (cells, CLASSES), boxes (cells, 4), and which cells are near enough to learn the box, or far enough to
        learn that there is nothing (cells, 2).
    """
    cells = centres()
    classes = np.zeros((len(cells), CLASSES), np.float32)
    boxes = np.zeros((len(cells), 4), np.float32)
    nearest = np.full(len(cells), np.inf, np.float32)
    for label, left, top, right, bottom in objects:
        offset = np.array([left + right, top + bottom], np.float32) / 2 - cells
        distance = np.hypot(offset[:, 0], offset[:, 1])
        near = (distance < NEAR) & (distance < nearest)
        nearest = np.minimum(nearest, distance)
        classes[near] = np.eye(CLASSES, dtype=np.float32)[int(label)]
        boxes[near, :2] = offset[near] / TYPICAL
        boxes[near, 2:] = np.log(np.array([right - left, bottom - top], np.float32) / TYPICAL)
    return classes, boxes, np.stack([nearest < NEAR, (nearest < NEAR) | (nearest > FAR)], axis=1)


def train(images: NDArray[np.float64], labels: NDArray[np.int64], steps: int = STEPS) -> list[tuple[Values, Values]]:
    """Train by Adam on new scenes at every step.

    Args:
        images: Shape (count, 8, 8), values 0 to 16.
        labels: Shape (count,), 0 to 9.
        steps: How many.

    Returns:
        Weights (inputs, outputs) and bias (outputs,) of each of three layers.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization" (2014), algorithm 1.
    """
    random = np.random.default_rng(SEED)
    sizes = (WINDOW * WINDOW, *HIDDEN, CLASSES + 4)
    layers: list[Values] = []
    for inputs, outputs in pairwise(sizes):
        layers.append(random.normal(0, np.sqrt(2 / inputs), (inputs, outputs)).astype(np.float32))
        layers.append(np.zeros(outputs, np.float32))
    layers[-1][:CLASSES] = -4  # nearly every cell is empty
    means, squares = [np.zeros_like(each) for each in layers], [np.zeros_like(each) for each in layers]
    for step in range(1, steps + 1):
        scenes = [make_scene(random, images, labels) for _ in range(SCENES_A_STEP)]
        inputs_ = np.concatenate([windows(scene.pixels) for scene in scenes])
        wanted = [np.concatenate(parts) for parts in zip(*(targets(scene.objects) for scene in scenes), strict=True)]
        # Most cells are far from everything: a fourth of them, taken four times as seriously, says as much.
        weights = np.where(wanted[2][:, 0], 1, wanted[2][:, 1] * FAR_WEIGHT).astype(np.float32)
        used = wanted[2][:, 0] | (wanted[2][:, 1] & (random.random(len(weights)) < 1 / FAR_WEIGHT))
        rate = 2e-3 * (1 + np.cos(np.pi * step / steps)) / 2
        for place, gradient in enumerate(
            _gradients(layers, inputs_[used], wanted[0][used], wanted[1][used], weights[used], random)
        ):
            means[place] += 0.1 * (gradient - means[place])
            squares[place] += 0.001 * (gradient * gradient - squares[place])
            mean, square = means[place] / (1 - 0.9**step), squares[place] / (1 - 0.999**step)
            layers[place] -= np.float32(rate) * (mean / (np.sqrt(square) + 1e-8) + 1e-3 * layers[place])
    return list(zip(layers[::2], layers[1::2], strict=True))


def _gradients(
    layers: Sequence[Values],
    inputs: Values,
    classes: Values,
    boxes: Values,
    weights: Values,
    random: np.random.Generator,
) -> list[Values]:
    """Of the cross-entropy of the classes and the squared error of the boxes, with dropout in the first layer."""
    first, first_bias, second, second_bias, third, third_bias = layers
    kept = (random.random(first_bias.shape) > 0.15).astype(np.float32) / np.float32(0.85)
    hidden = np.maximum(inputs @ first + first_bias, 0) * kept
    deeper = np.maximum(hidden @ second + second_bias, 0)
    values = deeper @ third + third_bias
    slope = np.empty_like(values)
    slope[:, :CLASSES] = (1 / (1 + np.exp(-np.clip(values[:, :CLASSES], -50, 50))) - classes) * weights[:, None]
    near = classes.any(axis=1, keepdims=True)
    slope[:, CLASSES:] = 2 * (values[:, CLASSES:] - boxes) * near
    slope /= max(int(near.sum()), 1)
    deeper_slope = slope @ third.T * (deeper > 0)
    hidden_slope = deeper_slope @ second.T * (hidden > 0) * kept
    return [
        inputs.T @ hidden_slope, hidden_slope.sum(axis=0),
        hidden.T @ deeper_slope, deeper_slope.sum(axis=0),
        deeper.T @ slope, slope.sum(axis=0),
    ]  # fmt: skip


def detector(layers: Sequence[tuple[Values, Values]]) -> "ModelProto":
    """Build the graph: a raw grid as YOLO's exports have it, a column a cell, without suppression.

    Args:
        layers: As `train` returns them.

    Returns:
        float32 input `image` of shape (1, 1, SIDE, SIDE), 0 to 1; output `grid` of shape (1, 4 + CLASSES, cells):
        centre, width and height in pixels, then a probability a digit.
    """
    from onnx import TensorProto, helper, numpy_helper  # not part of `make setup`

    constants: list[TensorProto] = []

    def constant(name: str, values: NDArray[np.generic]) -> str:
        constants.append(numpy_helper.from_array(values, name))
        return name

    nodes = [helper.make_node("AveragePool", ["image"], ["halved"], kernel_shape=[2, 2], strides=[2, 2])]
    value = "halved"
    for number, (weights, bias) in enumerate(layers):
        side = WINDOW if number == 0 else 1
        kernel = np.ascontiguousarray(weights.T.reshape(weights.shape[1], -1, side, side))
        names = [value, constant(f"weights_{number}", kernel), constant(f"bias_{number}", bias)]
        how = {"strides": [2, 2], "pads": [(WINDOW - 2) // 2] * 4} if number == 0 else {}
        nodes.append(helper.make_node("Conv", names, [f"layer_{number}"], kernel_shape=[side, side], **how))
        value = f"layer_{number}"
        if number < len(layers) - 1:
            nodes.append(helper.make_node("Relu", [value], [f"hidden_{number}"]))
            value = f"hidden_{number}"
    typical = constant("typical", np.array(TYPICAL, np.float32))
    grid = constant("centres", np.ascontiguousarray(centres().T)[np.newaxis])
    flat = constant("flat", np.array([1, CLASSES + 4, CELLS * CELLS], np.int64))
    nodes += [
        helper.make_node("Reshape", [value, flat], ["columns"]),
        helper.make_node("Split", ["columns"], ["logits", "offset", "extent"], axis=1, split=[CLASSES, 2, 2]),
        helper.make_node("Sigmoid", ["logits"], ["classes"]),
        helper.make_node("Mul", ["offset", typical], ["moved"]),
        helper.make_node("Add", ["moved", grid], ["centre"]),
        helper.make_node("Exp", ["extent"], ["relative"]),
        helper.make_node("Mul", ["relative", typical], ["size"]),
        helper.make_node("Concat", ["centre", "size", "classes"], ["grid"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digit-detector",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("grid", TensorProto.FLOAT, [1, CLASSES + 4, CELLS * CELLS])],
        constants,
    )
    return checked(graph)


def held_out_scenes(count: int = HELD_OUT_SCENES, seed: int = SEED + 1) -> list[Scene]:
    """Scenes of digits that training never saw.

    Args:
        count: How many.
        seed: Decides what is on them.
    """
    split, random = split_digits(), np.random.default_rng(seed)
    return [make_scene(random, split.held_out_images, split.held_out_labels) for _ in range(count)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and write model.onnx and samples.npz.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code 0; 2, at once, where scikit-learn or onnx is missing.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.train_detector", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder to write to (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training (default: %(default)s)")
    options = parser.parse_args(arguments)
    require(parser.prog, "dev", "sklearn", "onnx")
    output: Path = options.output
    split = split_digits()
    model = detector(train(split.train_images, split.train_labels, options.steps))
    scenes = held_out_scenes()
    samples = {
        "images": np.stack([scene.pixels for scene in scenes]),
        # Picture, label, left, top, right, bottom.
        "objects": np.concatenate([np.insert(scene.objects, 0, number, axis=1) for number, scene in enumerate(scenes)]),
    }
    said = f"{len(scenes)} held-out scenes; python -m tools.model check {output} tells the precision"
    write_trained(output, model, samples, said)
    return 0


if __name__ == "__main__":
    sys.exit(main())
