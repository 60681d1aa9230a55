"""int8 beside fp32 for each model: accuracy on held-out data, size, latency on one thread.

Rerun with `.venv/bin/python benchmarks/edge_int8.py`. Networks with random weights have no accuracy: for them the share
of inputs for which both name the same label stands in its place.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
for folder in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.edge_model import crops, mobilenet_v2
from benchmarks.quantization import quantize
from tools.onnx_graphs import resnet18
from tools.train_digits import split_digits
from tools.train_iris import split_iris

Inputs = list[NDArray[np.float32]]
CALIBRATION, RUNS = 32, 30


def session(model: bytes) -> Any:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, sess_options=options, providers=["CPUExecutionProvider"])


def answers(model: Any, name: str, inputs: Inputs) -> NDArray[np.int64]:
    """The label of each input."""
    return np.array([model.run(None, {name: values})[0][0].argmax() for values in inputs])


def latency_ms(model: Any, name: str, values: NDArray[np.float32]) -> float:
    """Median time of a run."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        model.run(None, {name: values})
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def row(title: str, model: bytes, name: str, calibration: Inputs, inputs: Inputs, labels: Any = None) -> str:
    """One line of the table."""
    small = quantize(model, name, calibration[:CALIBRATION])
    plain, quantised = session(model), session(small)
    found = answers(plain, name, inputs), answers(quantised, name, inputs)
    truth = found[0] if labels is None else labels
    shares = [f"{np.mean(each == truth):.4f}" for each in found]
    quality = f"- | {shares[1]} agree" if labels is None else f"{shares[0]} | {shares[1]}"
    times = latency_ms(plain, name, inputs[0]), latency_ms(quantised, name, inputs[0])
    return (
        f"| {title} | {quality} | {len(model) / 1e3:.1f} | {len(small) / 1e3:.1f} | {times[0]:.3f} | {times[1]:.3f} "
        f"| {times[0] / times[1]:.2f} |"
    )


def main() -> None:
    """Print the Markdown table."""
    argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0]).parse_args()
    print(
        "| model | fp32 | int8 | fp32 kB | int8 kB | fp32 ms | int8 ms | faster by |\n|---|---|---|---|---|---|---|---|"
    )
    models = ROOT / "edge_assets" / "models"
    digits, iris = split_digits(), split_iris()
    train, held = (
        [np.asarray(image / 16, np.float32)[np.newaxis, np.newaxis] for image in images]
        for images in (digits.train_images, digits.held_out_images)
    )
    print(row("digits", (models / "digits" / "model.onnx").read_bytes(), "image", train, held, digits.held_out_labels))
    train, held = (
        [np.asarray(flower, np.float32)[np.newaxis] for flower in rows]
        for rows in (iris.train_rows, iris.held_out_rows)
    )
    print(row("iris", (models / "iris" / "model.onnx").read_bytes(), "features", train, held, iris.held_out_labels))
    pictures, unseen = crops(8), crops(30, seed=1)
    narrow = (models / "image-classification" / "model.onnx").read_bytes()
    print(row("image-classification, random weights", narrow, "image", pictures, unseen))
    for title, network in (("ResNet-18, random weights", resnet18()), ("MobileNetV2, random weights", mobilenet_v2())):
        print(row(title, network.SerializeToString(), "image", pictures, unseen), flush=True)


if __name__ == "__main__":
    main()
