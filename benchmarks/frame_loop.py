"""Processor time of a loop of a frame each 20 ms, by how the runtime's threads are set: by itself, and by us.

    .venv/bin/python benchmarks/frame_loop.py [--rounds 9] [--frames 100] [--model DIR]

All ways take turns in one process, a round each; the ratio is the median over rounds.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "edge_assets" / "inference"))

from edge_inference.models.runtime import Running, import_engine, open_session

FRAME_S = 0.02


def by_itself(model: bytes) -> Any:
    """A session with the pool that the runtime makes unless it is told: a thread a core, which spins while it waits."""
    return import_engine().InferenceSession(model, providers=["CPUExecutionProvider"])


def processor_ms(session: Any, frames: int) -> float:
    """Processor time of the process for a frame."""
    given = session.get_inputs()[0]
    values = {given.name: np.zeros([size if isinstance(size, int) else 1 for size in given.shape], np.float32)}
    session.run(None, values)
    began, due = time.process_time(), time.perf_counter()
    for _ in range(frames):
        session.run(None, values)
        due += FRAME_S
        time.sleep(max(0.0, due - time.perf_counter()))
    return (time.process_time() - began) / frames * 1000


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--model", type=Path, default=ROOT / "edge_assets" / "models" / "image-classification")
    options = parser.parse_args()
    file = options.model / "model.onnx"
    contents = {"model.onnx": file.read_bytes()}
    ways: dict[str, Callable[[], Any]] = {
        "as the runtime does": lambda: by_itself(contents["model.onnx"]),
        "two threads, no spinning": lambda: open_session(file, contents, Running(2))[0],
        "one thread, the default": lambda: open_session(file, contents)[0],
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, make in ways.items():
            found[name].append(processor_ms(make(), options.frames))
    print("| threads | processor ms a frame | of the first |\n|---|--:|--:|")
    first = next(iter(found.values()))
    for name, times in found.items():
        ratio = statistics.median(mine / other for mine, other in zip(times, first, strict=True))
        print(f"| {name} | {statistics.median(times):.2f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
