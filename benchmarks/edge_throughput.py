"""Throughput and added latency of the component beside a bare loop of the same run, on one core.

Rerun with `.venv/bin/python benchmarks/edge_throughput.py`; the model is MobileNetV2-sized, int8, with random weights.
"""

import io
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import typer
from PIL import Image

for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from benchmarks.edge_model import MEAN, STD, mobilenet_package, photograph
from edge_inference import onnx_runtime
from edge_inference.capture import CaptureQueue
from edge_inference.capture_folder import CaptureFolder
from edge_inference.configuration import parse
from edge_inference.endpoint import Endpoint
from edge_inference.file_source import FileJob
from edge_inference.model_store import ModelStore
from edge_inference.outbox import Outbox
from edge_inference.spool import Spool
from edge_inference.workload import load_workload

SETTINGS = {"component": "c", "requestTopic": "q", "responseTopic": "r", "captureShare": 0.01}
SCALE = (1 / (255 * np.array(STD))).astype(np.float32)
OFFSET = (-np.array(MEAN) / np.array(STD)).astype(np.float32)


class Arrivals:
    """A publisher that notes when each message arrives."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.wanted = 0
        self.arrived = threading.Event()

    def publish(self, topic: str, payload: bytes) -> None:
        """Note the moment."""
        del topic, payload
        self.moments.append(time.perf_counter())
        if len(self.moments) >= self.wanted:
            self.arrived.set()

    def wait(self, count: int) -> None:
        """Wait for so many messages without taking time from who sends them."""
        self.arrived.wait(60)
        assert len(self.moments) >= count

    def expect(self, count: int) -> int:
        """Begin to wait for more messages; gives the number of all."""
        self.arrived.clear()
        self.wanted = len(self.moments) + count
        return self.wanted


def bare(session: object, jpeg: bytes) -> int:
    """What an engineer writes by hand: scaled decode, resize, fused normalisation, run."""
    picture = Image.open(io.BytesIO(jpeg))
    picture.draft("RGB", (224, 224))
    pixels = np.asarray(picture.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))
    values = np.empty((1, 3, 224, 224), np.float32)
    for channel in range(3):
        np.multiply(pixels[..., channel], SCALE[channel], out=values[0, channel])
        values[0, channel] += OFFSET[channel]
    return int(session.run(None, {"image": values})[0].argmax())  # type: ignore[attr-defined]


def chapter(session: object, jpeg: bytes) -> int:
    """The walk-through's way: decode all of it, resize, then float64 channel by channel."""
    pixels = np.array(Image.open(io.BytesIO(jpeg)).convert("RGB").resize((224, 224)))
    image = np.rollaxis(pixels, axis=2, start=0) / 255
    normal = np.zeros(image.shape)
    for channel in range(3):
        normal[channel] = (image[channel] - MEAN[channel]) / STD[channel]
    values = np.expand_dims(normal, 0).astype("float32")
    return int(session.run(None, {"image": values})[0].argmax())  # type: ignore[attr-defined]


def main(
    rounds: int = typer.Option(7, min=3, help="Rounds; the ways take turns, medians count."),
    frames: int = typer.Option(60, min=10, help="Frames of each way in a round."),
    seconds: int = typer.Option(10, min=2, help="How long to run at 30 frames/s."),
) -> None:
    """Print the Markdown table."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    package = mobilenet_package(Path("out/bench/mobilenet"))
    jpeg = photograph()
    (folder / "photo.jpg").write_bytes(jpeg)
    job = FileJob(folder / "photo.jpg")
    model = load_workload(package, onnx_runtime.load)
    session = onnx_runtime.open_session(package / "model.onnx")
    arrivals, outbox = Arrivals(), Outbox(spool=Spool(folder / "spool.sqlite"))
    outbox.attach(arrivals)
    captures = CaptureQueue(CaptureFolder(folder / "captures"), "bench")
    store = ModelStore(folder / "current", lambda _folder: model)
    (folder / "current").write_text(str(package))
    store.refresh()
    endpoint = Endpoint(parse({"models": {"m": SETTINGS}})["m"], "bench", store, outbox, captures)
    endpoint.start()
    threading.Thread(target=outbox.run, daemon=True).start()

    def component(count: int) -> float:
        wanted, started = arrivals.expect(count), time.perf_counter()
        for _ in range(count):
            endpoint._jobs.put((job, time.monotonic()))
        arrivals.wait(wanted)
        return arrivals.moments[-1] - started

    def timed(way: object, count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            way(session, (folder / "photo.jpg").read_bytes())  # type: ignore[operator]
        return time.perf_counter() - started

    rates: dict[str, list[float]] = {"bare": [], "component": [], "chapter": []}
    for number in range(rounds + 1):
        measured = {
            "bare": frames / timed(bare, frames),
            "component": frames / component(frames),
            "chapter": frames / 3 / timed(chapter, frames // 3),
        }
        for way, rate in measured.items() if number else ():
            rates[way].append(rate)
    ratio = statistics.median(c / b for c, b in zip(rates["component"], rates["bare"], strict=True))
    speedup = statistics.median(c / b for c, b in zip(rates["component"], rates["chapter"], strict=True))
    print("| frames/s, 1080p JPEG to label, one core | median | min | max |\n|---|---|---|---|")
    for way, values in rates.items():
        print(f"| {way} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")
    print(f"\ncomponent / bare: {ratio:.3f} (target 0.95), component / chapter: {speedup:.2f} (target 2)")

    alone, whole = [], []
    for number in range(seconds * 30):
        started = time.perf_counter()
        bare(session, (folder / "photo.jpg").read_bytes())
        alone.append((time.perf_counter() - started) * 1000)
        wanted, sent = arrivals.expect(1), time.perf_counter()
        endpoint._jobs.put((job, time.monotonic()))
        arrivals.wait(wanted)
        whole.append((arrivals.moments[-1] - sent) * 1000)
        if number % 30 == 0:
            captures.write_next(1 << 26, 0)
        time.sleep(max(0, 1 / 30 - (time.perf_counter() - started)))
    added = np.array(whole) - np.array(alone)
    p50, p99 = np.percentile(whole, (50, 99)) - np.percentile(alone, (50, 99))
    print(f"\nat 30 frames/s, added to the bare loop: p50 {p50:.2f} ms, p99 {p99:.2f} ms (target 2 ms), ", end="")
    print(f"median of the differences {np.median(added):.2f} ms; bare p99 {np.percentile(alone, 99):.1f} ms")


if __name__ == "__main__":
    typer.run(main)
