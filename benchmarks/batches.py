"""Inputs that are run together beside inputs that are not: inputs a second when many wait, and what it adds alone.

    .venv/bin/python benchmarks/batches.py [--askers 8] [--rounds 9] [--seconds 1]

The committed detector and image classifier with their batch set free, in one session each on one thread; both ways take
turns, a round each, and ratios are medians over rounds. Askers are threads, as in a pipeline of that many.
"""

import argparse
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(ROOT / root))

from edge_inference.models.runtime import BatchedModel, OnnxModel, batched, import_engine

MODELS = {"digit-detector": (1, 1, 96, 96), "image-classification": (1, 3, 224, 224)}


def set_free(name: str) -> OnnxModel:
    """Load a committed model whose first sizes are free; constants that hold a batch of 1 are let be."""
    model = onnx.load(ROOT / "edge_assets" / "models" / name / "model.onnx")
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    for node in model.graph.node:
        if node.op_type != "Reshape":
            continue
        for constant in model.graph.initializer:
            if constant.name == node.input[1]:
                sizes = onnx.numpy_helper.to_array(constant).copy()
                # 0: as the input has it.
                sizes[0] = 0
                constant.CopyFrom(onnx.numpy_helper.from_array(sizes, constant.name))
    options = import_engine().SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = import_engine().InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return OnnxModel(session, session.get_inputs()[0].name, [each.name for each in session.get_outputs()])


def asked(model: OnnxModel, value: NDArray[Any], askers: int, seconds: float) -> float:
    """Inputs a second, by so many threads."""
    ends, counts = time.perf_counter() + seconds, [0] * askers

    def ask(place: int) -> None:
        while time.perf_counter() < ends:
            model.run(value)
            counts[place] += 1

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(askers)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--askers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    print("| model | inputs/s one by one | together | ratio | joined | alone, ms added |\n|---|--:|--:|--:|--:|--:|")
    for name, shape in MODELS.items():
        plain = set_free(name)
        together = batched(plain, shape, "float32", options.askers)
        if not isinstance(together, BatchedModel):
            print(f"| {name} | its batch cannot be set free | | | | |")
            continue
        value = np.random.default_rng(0).random(shape, dtype=np.float32)
        rates: dict[str, list[float]] = {"plain": [], "together": []}
        alone: dict[str, list[float]] = {"plain": [], "together": []}
        for _ in range(options.rounds):
            for way, model in (("plain", plain), ("together", together)):
                rates[way].append(asked(model, value, options.askers, options.seconds))
                alone[way].append(1000 / asked(model, value, 1, options.seconds / 4))
        ratio = statistics.median(b / a for a, b in zip(rates["plain"], rates["together"], strict=True))
        added = statistics.median(b - a for a, b in zip(alone["plain"], alone["together"], strict=True))
        print(
            f"| {name} | {statistics.median(rates['plain']):.0f} | {statistics.median(rates['together']):.0f} | "
            f"{ratio:.2f} | {together.inputs / together.runs:.1f} | {added:+.3f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
