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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import typer
from PIL import Image

for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from benchmarks.edge_model import MEAN, STD, mobilenet_package, photograph
from benchmarks.recording_device import RecordingDevice
from edge_component import greengrass_ipc, process
from edge_component.ipc import Side
from edge_component.outbox import Outbox, Spool
from edge_inference.captures import CaptureFolder, CaptureQueue
from edge_inference.endpoint import Endpoint, _Job
from edge_inference.files import FileJob, read_file
from edge_inference.models import runtime
from edge_inference.models.package import verified
from edge_inference.models.store import ModelStore, load_workload
from edge_inference.settings import parse
from tests.edge.local_device import RESPONSE

SETTINGS = {"component": "c", "requestTopic": "q", "responseTopic": RESPONSE, "captureShare": 0.01}
SCALE = (1 / (255 * np.array(STD))).astype(np.float32)
Timed = Callable[[Callable[[object, bytes], int], int], float]
OFFSET = (-np.array(MEAN) / np.array(STD)).astype(np.float32)


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


class Component:
    """The endpoint with all that lies behind it: captures, outbox, spool, and the SDK's client on a device's socket.

    Args:
        folder: Of the run; photo.jpg in it is what is predicted.
        package: The model's.
        device: Where answers go.
        settings: Of the model, beside its topics.
    """

    def __init__(self, folder: Path, package: Path, device: RecordingDevice, **settings: object) -> None:
        self._device = device
        self._job = FileJob(folder / "photo.jpg")
        outbox = Outbox(spool=Spool(folder / "spool.sqlite"))
        outbox.attach(greengrass_ipc.connect(lambda: None))
        self._captures = CaptureQueue(CaptureFolder(folder / "captures"), "bench")
        self._store = ModelStore(
            folder / "current", lambda folder, running: load_workload(folder, partial(runtime.load, running=running))
        )
        (folder / "current").write_text(str(package.resolve()))
        model_settings = parse({"models": {"m": SETTINGS | settings}})["m"]
        self._endpoint = Endpoint(model_settings, "bench", self._store, outbox, self._captures)
        process.freeze()
        self._store.refresh(self._endpoint.running)
        process.trim()
        self._endpoint.start()
        threading.Thread(target=outbox.run, daemon=True).start()
        threading.Thread(target=self._captures.run, daemon=True).start()

    def labels(self, count: int) -> float:
        """Predict the photograph so often in this thread, without answers; gives the time."""
        model = self._store.model
        assert model is not None
        started = time.perf_counter()
        for _ in range(count):
            model.predict(read_file(self._job.path, 0), 5)
        return time.perf_counter() - started

    def seconds(self, count: int) -> float:
        """Predict the photograph so often; gives the time until the last answer is with the device."""
        self._device.expect(count)
        started = time.perf_counter()
        for _ in range(count):
            self._endpoint._add(_Job(self._job, (Side.CLOUD,)))
        return self._device.arrived() - started


def main(
    rounds: int = typer.Option(15, min=3, help="Rounds; the ways take turns, medians count."),
    frames: int = typer.Option(100, min=10, help="Frames of each way in a round."),
    seconds: int = typer.Option(30, min=2, help="How long to run at 30 frames/s."),
) -> None:
    """Print the Markdown tables."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    package = mobilenet_package(Path("out/bench/mobilenet"))
    (folder / "photo.jpg").write_bytes(photograph())
    session, _ = runtime.open_session(package / "model.onnx", verified(package)[1])

    def timed(way: Callable[[object, bytes], int], count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            way(session, (folder / "photo.jpg").read_bytes())
        return time.perf_counter() - started

    with RecordingDevice(folder / "ipc.sock", cores - {max(cores)} or cores) as device:
        component = Component(folder, package, device)
        throughput(rounds, frames, timed, component)
        processor_time(timed, component)
        latency(seconds, timed, component)


def processor_time(timed: Timed, component: Component) -> None:
    """Print what a frame costs in time of the processor, which other work on the machine hardly changes: quartiles."""
    costs: dict[str, list[float]] = {"bare": [], "component": []}
    ways: dict[str, Callable[[], float]] = {"bare": lambda: timed(bare, 20), "component": lambda: component.seconds(20)}
    for _ in range(16):
        for name, way in ways.items():
            started = time.process_time()
            way()
            costs[name].append((time.process_time() - started) * 1000 / 20)
    first = {name: np.percentile(values, 25) for name, values in costs.items()}
    print(f"\nprocessor ms a frame: bare {first['bare']:.2f}, component {first['component']:.2f}, ", end="")
    print(f"bare / component {first['bare'] / first['component']:.3f}")


def throughput(rounds: int, frames: int, timed: Timed, component: Component) -> None:
    """Print frames/s of the ways, and their ratios: to the label, and to the answer that the device has taken."""
    rates: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        measured = {
            "bare loop": frames / timed(bare, frames),
            "component, to the label": frames / component.labels(frames),
            "component, to the published answer": frames / component.seconds(frames),
            "walk-through": frames / 3 / timed(chapter, frames // 3),
        }
        for way, rate in measured.items() if number else ():
            rates.setdefault(way, []).append(rate)
    print("| frames/s, 1080p JPEG, one core | median | min | max |\n|---|---|---|---|")
    for way, values in rates.items():
        print(f"| {way} | {statistics.median(values):.1f} | {min(values):.1f} | {max(values):.1f} |")
    label, answer = list(rates)[1:3]
    for way, other, target in ((label, "bare loop", 0.95), (answer, "bare loop", 0.95), (answer, "walk-through", 2)):
        ratio = statistics.median(a / b for a, b in zip(rates[way], rates[other], strict=True))
        print(f"\n{way} / {other}: {ratio:.3f} (target {target})", end="")
    print()


def latency(seconds: int, timed: Timed, component: Component) -> None:
    """Print the percentiles of both ways at 30 frames/s; they take turns in who is first of a frame's time."""
    alone, whole = [], []
    for number in range(seconds * 30):
        started = time.perf_counter()
        if number % 2:
            whole.append(component.seconds(1) * 1000)
        alone.append(timed(bare, 1) * 1000)
        if not number % 2:
            whole.append(component.seconds(1) * 1000)
        time.sleep(max(0, 1 / 30 - (time.perf_counter() - started)))
    wanted = (50, 95, 99)
    print(f"\n| ms at 30 frames/s, {len(whole)} frames | p50 | p95 | p99 |\n|---|---|---|---|")
    found = {"bare": np.percentile(alone, wanted), "component": np.percentile(whole, wanted)}
    found["added (target 2 at p99)"] = found["component"] - found["bare"]
    for way, values in found.items():
        print(f"| {way} | {' | '.join(f'{value:.2f}' for value in values)} |")


if __name__ == "__main__":
    typer.run(main)
