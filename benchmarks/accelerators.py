"""Answers by an accelerator's execution provider beside the processor's on the same inputs: labels, numbers, latency.

    .venv-openvino/bin/python benchmarks/accelerators.py openvino [--model DIR …] [--runs 200] [--json FILE]
    .venv-cuda/bin/python benchmarks/accelerators.py cuda          # on a machine with a card, CUDA and cuDNN
    .venv-cuda/bin/python benchmarks/accelerators.py tensorrt      # and TensorRT

Each model runs all of its held-out inputs by both, loaded as a device loads it, one input after the other on one
thread; then both take turns for the latency. A model without held-out inputs gets 100 random ones. Exit code 1 where a
label differs, or where the accelerator does not start: then it says why.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(ROOT / root))

from edge_constructs.model_source import ModelSource
from edge_inference.messages import Prediction, Request
from edge_inference.models import runtime
from edge_inference.models.package import ModelPackage
from edge_inference.models.runtime import OnnxModel, Running
from edge_inference.models.store import Workload, load_workload

MODELS = ("digits", "iris", "digit-detector", "image-classification")
RANDOM = 100
#: Boxes by two providers are the same object within so many pixels.
BOX_PIXELS = 0.5


@dataclass
class Row:
    """What a model did by both.

    Attributes:
        model: Its folder's name.
        inputs: How many.
        same: How many had the same labels, and boxes within half a pixel.
        difference: Largest difference of a value of the outputs.
        cpu_ms: Median time of an input on the processor's provider, from request to prediction.
        ms: The same on the accelerator's.
        cpu_load_ms: To load and warm it.
        load_ms: The same on the accelerator's.
    """

    model: str
    inputs: int
    same: int
    difference: float
    cpu_ms: float
    ms: float
    cpu_load_ms: float
    load_ms: float


class Recorded:
    """A runtime that keeps the outputs of the last run.

    Args:
        inner: Runs the model.
    """

    def __init__(self, inner: OnnxModel) -> None:
        self._inner = inner
        self.last: list[NDArray[Any]] = []

    def run(self, values: NDArray[Any]) -> NDArray[Any]:
        """See `ModelRuntime.run`."""
        output = self._inner.run(values)
        self.last = [output]
        return output

    def run_tensors(self, values: Any) -> dict[str, NDArray[Any]]:
        """See `ModelRuntime.run_tensors`."""
        outputs = self._inner.run_tensors(values)
        self.last = list(outputs.values())
        return outputs


class Loaded:
    """A model on one provider."""

    def __init__(self, folder: Path, running: Running) -> None:
        started = time.perf_counter()
        self.fallback = ""

        def load(package: ModelPackage) -> Recorded:
            model = runtime.load(package, running)
            self.fallback = model.fallback
            self.recorded = Recorded(model)
            return self.recorded

        self.workload: Workload = load_workload(folder, load)
        self.load_ms = (time.perf_counter() - started) * 1000

    def predict(self, request: Request) -> Prediction:
        """Answer a request with all that the model says."""
        return self.workload.predict(request, 20)


def unpack(source: ModelSource, folder: Path) -> Path:
    """Lay a model's folder out as a device finds it; `tools.model_folder` needs packages that are not here."""
    files = {}
    for name, original in source.files.items():
        member = "model.onnx" if name.endswith(".onnx") else name
        (folder / member).parent.mkdir(parents=True, exist_ok=True)
        content = original.read_bytes()
        (folder / member).write_bytes(content)
        files[member] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    manifest = {**source.declaration, "version": "0.0.0", "runtime": "onnxruntime", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def requests_of(model: Workload) -> Iterator[Request]:
    """A request for each held-out input, or random pictures."""
    count = len(getattr(model, "samples", ()))
    if count:
        yield from (Request(None, index=index) for index in range(count))
        return
    import io

    from PIL import Image

    random = np.random.default_rng(1)
    for _ in range(RANDOM):
        stream = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (240, 320, 3), np.uint8)).save(stream, "JPEG")
        yield Request(None, image=stream.getvalue())


def are_same(one: Prediction, other: Prediction) -> bool:
    """Whether two answers name the same best label, or the same objects in the same places."""
    if one.size is None:
        return [score.label for score in one.scores[:1]] == [score.label for score in other.scores[:1]]
    there, seen = ([each for each in found.scores if each.probability >= 0.4] for found in (one, other))
    return len(there) == len(seen) and all(
        mine.label == its.label and np.allclose(mine.box or (), its.box or (), atol=BOX_PIXELS)
        for mine, its in zip(there, seen, strict=True)
    )


def compare(folder: Path, accelerator: str, runs: int) -> Row:
    """Run a model by both providers.

    Args:
        folder: Of the model.
        accelerator: As in the stage's file.
        runs: Of each, for the latency.

    Raises:
        RuntimeError: The accelerator does not start.
    """
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = unpack(ModelSource.read(folder), Path(scratch))
        cpu, fast = Loaded(unpacked, Running()), Loaded(unpacked, Running(accelerator=accelerator))
    if fast.fallback:
        raise RuntimeError(f"{folder.name} does not run by {accelerator}: {fast.fallback}")
    asked = list(requests_of(cpu.workload))
    same, difference = 0, 0.0
    for request in asked:
        same += are_same(cpu.predict(request), fast.predict(request))
        for one, other in zip(cpu.recorded.last, fast.recorded.last, strict=True):
            difference = max(difference, float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max()))
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(runs):
        for place, model in enumerate((cpu, fast)):
            started = time.perf_counter()
            model.predict(asked[turn % len(asked)])
            times[place].append((time.perf_counter() - started) * 1000)
    cpu_ms, fast_ms = map(statistics.median, times)
    return Row(folder.name, len(asked), same, difference, cpu_ms, fast_ms, cpu.load_ms, fast.load_ms)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("accelerator", choices=[name for name in runtime.PROVIDERS if name != runtime.CPU])
    parser.add_argument("--model", type=Path, action="append", help="a model's folder; the committed ones by default")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", type=Path, help="gets the rows, too")
    options = parser.parse_args()
    engine = runtime.import_engine()
    print(f"ONNX Runtime {engine.__version__}: {', '.join(engine.get_available_providers())}")
    rows = []
    for folder in options.model or [ROOT / "edge_assets" / "models" / name for name in MODELS]:
        try:
            rows.append(compare(folder.resolve(), options.accelerator, options.runs))
        except RuntimeError as exc:
            print(exc)
            return 1
    print(f"| model | inputs | same answers | largest difference | CPU ms | {options.accelerator} ms | loaded ms |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        print(
            f"| {row.model} | {row.inputs} | {row.same} | {row.difference:.2g} | {row.cpu_ms:.3f} | {row.ms:.3f} | "
            f"{row.cpu_load_ms:.0f} / {row.load_ms:.0f} |"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows]))
    return int(any(row.same != row.inputs for row in rows))


if __name__ == "__main__":
    sys.exit(main())
