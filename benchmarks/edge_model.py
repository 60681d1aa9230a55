"""What the edge benchmarks run: a MobileNetV2-sized int8 model with random weights, and a 1080p photograph."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.quantization import quantize
from tools.onnx_graphs import CLASSES, INPUT, mobilenet_v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
