"""Start and memory of the component's process, with the real SDK client on a real IPC socket.

Rerun with `.venv/bin/python benchmarks/edge_process.py`.
"""

import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import typer

ROOT = Path(__file__).resolve().parents[1]
for folder in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(ROOT / folder))

from benchmarks.edge_model import mobilenet_package, photograph
from edge_constructs.edge_assets import inference_archive
from tests.edge.local_device import LocalDevice, configuration
from tests.edge.model_folder import make_package, point


def start(folder: Path, device: LocalDevice) -> subprocess.Popen[bytes]:
    """Start the component as a device does."""
    environment = {**os.environ, **device.environment()}
    # By the script of the recipe, in this environment in place of the runtime component's.
    point(folder / "work" / "runtime" / "current", Path(sys.prefix))
    command = ["/bin/sh", str(folder / "inference" / "run.sh"), str(folder / "work"), "runtime", "edge_inference"]
    with (folder / "component.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stderr=log, cwd=folder)


def first_answer(device: LocalDevice, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for an answer of a component that was started, or say why it ended."""
    for _ in range(60):
        try:
            device.answer(1)
        except queue.Empty:
            if process.poll() is None:
                continue
            text = (folder / "component.log").read_text(errors="replace")
            raise SystemExit(f"the component ended with {process.returncode}:\n{text[-2000:]}") from None
        else:
            return
    raise SystemExit(f"no answer within 60 s, see {folder / 'component.log'}")


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Memory of a process in RAM, MB."""
    return float(psutil.Process(process.pid).memory_info().rss / 1e6)


def with_two_models(picture: Path) -> dict[str, Any]:
    """The digit model, and beside it the large one, which looks at a photograph."""
    config = configuration(queueSize=1000)
    topics = {"requestTopic": "edgewright/test/digits/request2", "responseTopic": "edgewright/test/digits/response"}
    watched = picture.parent / "watched"
    watched.mkdir()
    large = {"component": "large", **topics, "ImageName": picture.name, "ImageDirectory": str(picture.parent)}
    large["WatchDirectory"] = str(watched)
    config["models"]["mobilenet"] = large  # as its package is named
    for side in config["accessControl"].values():
        side["in"]["resources"].append(topics["requestTopic"])
    return config


def main(
    starts: int = typer.Option(5, min=1, help="Starts to measure."),
    inferences: int = typer.Option(100_000, min=1000, help="Requests to the small model for the flatness of memory."),
    photographs: int = typer.Option(5_000, min=0, help="Photographs for the large model, after those."),
) -> None:
    """Print start times, resident memory with two models, and its change over many inferences."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    (folder / "photo.jpg").write_bytes(photograph())
    with zipfile.ZipFile(inference_archive(folder / "archive").file) as members:
        members.extractall(folder / "inference")
    package = mobilenet_package(ROOT / "out" / "bench" / "mobilenet")
    point(folder / "work" / "large" / "current", package.resolve())
    point(folder / "work" / "edgewright.test.model.Digits" / "current", make_package(folder / "digits"))
    times = []
    with LocalDevice(folder / "ipc.sock", with_two_models(folder / "photo.jpg")) as device:
        for number in range(starts):
            started = time.perf_counter()
            process = start(folder, device)
            first_answer(device, process, folder)  # of the photograph
            times.append(time.perf_counter() - started)
            if number < starts - 1:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
        print(f"process start to first prediction: median {statistics.median(times):.2f} s, max {max(times):.2f} s")
        try:
            device.wait_for_subscription()
            marks = [answered(device, process, 1000)]
            print(f"resident with two models, MobileNetV2-sized int8 and digits: {marks[0]:.1f} MB (target 100)")
            for _ in range(10):
                marks.append(answered(device, process, inferences // 10))
            tell(f"{inferences} inferences of the small model", marks)
            if photographs:
                share = max(photographs // 10, 1)
                large = [classified(device, process, folder, share, part) for part in range(10)]
                tell(f"{photographs} photographs by the large model", large)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def tell(what: str, marks: list[float]) -> None:
    """Print how the memory went."""
    slope = np.polyfit(range(len(marks)), marks, 1)[0] * (len(marks) - 1)
    print(f"over {what}: {marks[0]:.1f} to {marks[-1]:.1f} MB, peak {max(marks):.1f}, ", end="")
    print(f"trend {slope:+.1f} MB (target ± 5)")


def classified(device: LocalDevice, process: subprocess.Popen[bytes], folder: Path, count: int, part: int) -> float:
    """Have the photograph classified from the watched folder, and measure the memory."""
    for number in range(count):
        os.link(folder / "photo.jpg", folder / "watched" / f"{part}-{number:06}.jpg")
    for _ in range(count):
        device.answer(60)
    return resident_mb(process)


def answered(device: LocalDevice, process: subprocess.Popen[bytes], count: int) -> float:
    """Send requests, 50 in flight, take the answers, and measure the memory."""
    for batch in range(0, count, 50):
        for number in range(50):
            device.send({"index": (batch + number) % 360})
        for _ in range(50):
            device.answer(60)
    return resident_mb(process)


if __name__ == "__main__":
    typer.run(main)
