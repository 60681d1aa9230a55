"""What the edge benchmarks run: a MobileNetV2-sized int8 model with random weights, and a 1080p photograph."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.quantization import quantize
from tools.onnx_graphs import CLASSES, INPUT, ConvolutionGraph

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Expansion, channels, repetitions, stride of each stage of MobileNetV2.
BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def photograph(width: int = 1920, height: int = 1080) -> bytes:
    """A real photograph, scaled up and encoded as a camera would."""
    stream = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize((width, height)).save(stream, "JPEG", quality=85)
    return stream.getvalue()


def crops(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    """Pieces of real photographs as the networks' inputs."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(count):
        picture = load_sample_image(("china.jpg", "flower.jpg")[number % 2])
        top, left = random.integers(0, picture.shape[0] - 224), random.integers(0, picture.shape[1] - 224)
        values = (picture[top : top + 224, left : left + 224] / 255 - MEAN) / STD
        found.append(values.transpose(2, 0, 1)[np.newaxis].astype(np.float32))
    return found


class MobileGraph(ConvolutionGraph):
    """A graph with MobileNetV2's rectifier."""

    def relu6(self, value: str) -> str:
        """Add a rectifier that ends at 6."""
        return self._node("Clip", [value, self._constant(np.array(0.0)), self._constant(np.array(6.0))])


def mobilenet_v2(classes: int = CLASSES, seed: int = 0) -> ModelProto:
    """Build MobileNetV2 with 3.5 million weights.

    Args:
        classes: Size of the output.
        seed: Of the weights.

    Returns:
        float32 input `image`, output `logits`.
    """
    graph = MobileGraph(seed)
    value = graph.relu6(graph.convolution("image", 3, 32, 3, stride=2))
    channels = 32
    for expansion, outputs, repetitions, first_stride in BOTTLENECKS:
        for repetition in range(repetitions):
            stride = first_stride if repetition == 0 else 1
            inner, hidden = value, channels * expansion
            if expansion > 1:
                inner = graph.relu6(graph.convolution(inner, channels, hidden, 1))
            inner = graph.relu6(graph.convolution(inner, hidden, hidden, 3, stride=stride, groups=hidden))
            inner = graph.convolution(inner, hidden, outputs, 1)
            value = graph.add(value, inner, scale=0.5) if stride == 1 and channels == outputs else inner
            channels = outputs
    value = graph.relu6(graph.convolution(value, channels, 1280, 1))
    graph.classes(value, 1280, classes, spread=4.0, output="logits")
    return graph.model("mobilenet_v2", INPUT, classes, "logits")


def mobilenet_package(folder: Path) -> Path:
    """Write the package of the quantised MobileNetV2; kept between runs, for making it takes a while."""
    if (folder / "manifest.json").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    model = quantize(mobilenet_v2().SerializeToString(), "image", crops(4))
    (folder / "model.onnx").write_bytes(model)
    manifest: dict[str, Any] = {
        "name": "mobilenet",
        "version": "1.0.0",
        "task": "image-classification",
        "notice": "random weights: the labels mean nothing",
        "inputs": [{"name": "image", "dtype": "float32", "shape": list(INPUT)}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, CLASSES]}],
        "labels": [f"class {number}" for number in range(CLASSES)],
        "preprocessing": {"width": 224, "height": 224, "mode": "RGB", "mean": MEAN, "std": STD},
        "files": {"model.onnx": {"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
