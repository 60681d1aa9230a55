"""A camera that misbehaves, in every way in turn and at random: how soon its frames are back, and what is left behind.

    .venv/bin/python benchmarks/camera_faults.py [--minutes 10] [--seed 20] [--timeout 5]

The camera is a server on loopback in a process of its own (tests/edge/rogue_camera.py); the device's own code reads it
and decodes each frame that it takes. A fault lasts for 0.2 to 9 s, then the camera is as it should be: connections that
stalled or dripped go on, those that were refused or ended have to be made anew. Exit code 1 where a target is missed.
"""

import argparse
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil

for root in (".", "edge_assets/inference"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from edge_inference.camera import Camera, Source
from edge_inference.camera_frames import HttpFrames
from edge_inference.messages import RequestError
from edge_inference.models.pictures import decode
from tests.edge.rogue_camera import FAULTS, RogueCamera, jpeg

RETURN_S = 2.0
MEMORY_MB = 5.0
#: The camera refuses for good, as far as a device can know: it is asked seldom, as many lock their users out.
SELDOM = ("not-a-picture",)


def serve(line: Connection) -> None:
    """Be the camera; each message is what to do from now on."""
    sizes = [jpeg(640, 480, 1), jpeg(8, 8, 2), jpeg(1920, 1080, 3), jpeg(320, 240, 4)]
    with RogueCamera(sizes, fps=30) as camera:
        line.send(camera.url)
        while mode := line.recv():
            camera.mode = mode


class Reader:
    """Takes frames and decodes them, as an endpoint does."""

    def __init__(self) -> None:
        self.decoded = self.broken = 0
        self.last = 0.0

    def __call__(self, camera: Camera) -> None:
        """Take the newest frame."""
        frame = camera.take()
        if frame is None:
            return
        try:
            decode(frame.data, 96, 96, "L")
        except RequestError:
            self.broken += 1
            return
        self.decoded += 1
        self.last = time.monotonic()


def main() -> int:
    """Run the faults, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--timeout", type=float, default=5.0, help="the device's cameraTimeoutSeconds")
    options = parser.parse_args()
    choose = random.Random(options.seed)  # noqa: S311 - the same at each run
    line, other = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(other,), daemon=True)
    server.start()
    reader, process = Reader(), psutil.Process()
    camera = Camera(Source(line.recv(), every_s=0.1, timeout_s=options.timeout), reader, HttpFrames)
    camera.start()
    returns: dict[str, list[float]] = defaultdict(list)
    # Once around for what every kind of fault makes the first time.
    ends = time.monotonic() + options.minutes * 60
    faults: list[str] = []
    memory = [0.0]
    while time.monotonic() < ends:
        if not faults:
            faults = choose.sample(FAULTS, len(FAULTS))
            memory.append(process.memory_info().rss / 1e6)
        fault = faults.pop()
        line.send(fault)
        time.sleep(choose.choice([0.2, 1, 3, choose.uniform(0.2, 9)]))
        line.send(choose.choice(["mjpeg", "no-length", "jpeg"]))
        began = time.monotonic()
        while reader.last < began and time.monotonic() < began + 120:
            time.sleep(0.005)
        returns[fault].append(time.monotonic() - began)
        time.sleep(choose.uniform(0, 0.5))
    frames, threads, files = reader.decoded, threading.active_count(), process.num_fds()
    camera.close()
    line.send("")
    print(f"{options.minutes:g} minutes, {sum(map(len, returns.values()))} faults, {frames} frames decoded, ", end="")
    print(f"{reader.broken} of no use; {camera.state()}")
    print("| fault | times | frames again after, median s | slowest s |\n|---|--:|--:|--:|")
    for fault, times in sorted(returns.items()):
        print(f"| {fault} | {len(times)} | {statistics.median(times):.2f} | {max(times):.2f} |")
    settled = memory[2:] or memory
    slope = float(np.polyfit(range(len(settled)), settled, 1)[0]) * (len(settled) - 1) if len(settled) > 2 else 0.0
    print(f"memory from {settled[0]:.1f} to {settled[-1]:.1f} MB, trend {slope:+.1f}; {threads} threads, {files} files")
    late = [fault for fault, times in returns.items() if fault not in SELDOM and max(times) > RETURN_S]
    print(f"later than {RETURN_S:g} s: {', '.join(late) or 'none'} ({', '.join(SELDOM)} aside)")
    # The main thread, the camera's, and what the library of numbers has.
    return int(bool(late) or abs(slope) > MEMORY_MB or threads > 3)


if __name__ == "__main__":
    sys.exit(main())
