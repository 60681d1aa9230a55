"""The component on one core, on two, and under a quota: frames/s, who used which core, processor time.

What two cores of this machine can give at most, two bare loops that share nothing but its memory say.

    .venv/bin/python benchmarks/edge_cores.py [--rounds 9] [--frames 60]

Each way is a component in a process of its own, all are started first and then take turns, a round each; ratios are
medians over rounds. The device that takes the answers has a process of its own for each, which may run anywhere: beside
one core that is a core of its own, beside two it takes from them. With one core for both, as on a device that has one,
two cores are compared with half of what they are. The quota needs root and a control group of its own; without, that
row is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from benchmarks.edge_model import mobilenet_package, photograph
from benchmarks.edge_throughput import Component, bare
from benchmarks.recording_device import RecordingDevice
from edge_inference.models import runtime
from edge_inference.models.package import verified

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_S = 0.02
"""Between two looks at which core runs what; each takes from the cores that are measured."""
PAIR = "two bare loops at once, a core each"
ALONE = "one core, the device on it, too"
GROUP_V1, GROUP_V2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")


@contextlib.contextmanager
def quota(cores: float) -> Iterator[Path | None]:
    """A control group with a quota; None where this machine or user cannot have one."""
    old = (GROUP_V1 / "cpu.cfs_quota_us").exists()
    group = (GROUP_V1 if old else GROUP_V2) / f"edgewright-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        limit = f"{int(cores * 100_000)}"
        file, text = ("cpu.cfs_quota_us", limit) if old else ("cpu.max", f"{limit} 100000")
        (group / file).write_text(text)
        yield group
    except OSError:
        yield None
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


class Way:
    """A component in a process of its own.

    Args:
        name: For the table.
        folder: Of the run.
        how: cores, group, settings: see `serve`.
    """

    def __init__(self, name: str, folder: Path, **how: Any) -> None:
        self.name, self.rates, self.costs = name, list[float](), list[float]()
        self.used: Counter[int] = Counter()
        folder.mkdir()
        (folder / "photo.jpg").write_bytes(photograph())
        command = [sys.executable, __file__, "--serve", json.dumps({"folder": str(folder), **how})]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )
        self.about = json.loads(self._line())

    def measure(self, frames: int) -> None:
        """Predict so many photographs; notes frames/s, processor time and which cores they took."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        seconds, processor_s = self._predict(frames)
        ended.set()
        watcher.join()
        self.costs.append(processor_s * 1000 / frames)
        self.rates.append(frames / seconds)

    def measure_beside(self, other: Way, frames: int) -> None:
        """Predict so many photographs, half of them in another process at the same time; notes frames/s."""
        with ThreadPoolExecutor() as pool:
            (first, cost), (second, other_cost) = pool.map(lambda way: way._predict(frames // 2), (self, other))
        self.costs.append((cost + other_cost) * 1000 / frames)
        self.rates.append(frames / max(first, second))

    def _predict(self, frames: int) -> tuple[float, float]:
        assert self._process.stdin
        self._process.stdin.write(f"{frames}\n")
        found = json.loads(self._line())
        return found["seconds"], found["processor_s"]

    def masks(self) -> set[str]:
        """The cores that each thread may use."""
        texts = [file.read_text() for file in Path(f"/proc/{self._process.pid}/task").glob("*/status")]
        return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Cpus_allowed_list")}

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        self._process.kill()

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} has ended with {self._process.wait(30)}")
        return line

    def _watch(self, ended: threading.Event) -> None:
        """Look where running threads run."""
        tasks = Path(f"/proc/{self._process.pid}/task")
        while not ended.wait(SAMPLE_S):
            for file in tasks.glob("*/stat"):
                with contextlib.suppress(OSError):
                    fields = file.read_text().rpartition(")")[2].split()
                    if fields[0] == "R":
                        self.used[int(fields[36])] += 1


def serve(how: dict[str, Any]) -> None:
    """Be one of the ways: read how many frames, answer with seconds and processor time.

    Args:
        how: folder, cores (mask), device (that of the device; by default all), group (control group to join, or empty),
            bare (the bare loop instead), settings.
    """
    folder, package = Path(how["folder"]), mobilenet_package(ROOT / "out" / "bench" / "mobilenet")
    with RecordingDevice(folder / "ipc.sock", set(how.get("device", os.sched_getaffinity(0)))) as device:
        if how.get("group"):
            (Path(how["group"]) / "cgroup.procs").write_text(str(os.getpid()))
        os.sched_setaffinity(0, how["cores"])
        component = session = None
        if how.get("bare"):
            session, _ = runtime.open_session(package / "model.onnx", verified(package)[1])
        else:
            component = Component(folder, package, device, **how.get("settings", {}))
        about = {"parallel": 1, "threads": 1}
        if component:
            endpoint = component._endpoint
            about = {"parallel": endpoint._pipeline.parallel, "threads": endpoint.threads}
        print(json.dumps(about), flush=True)
        for line in sys.stdin:
            frames, used = int(line), time.process_time()
            if component:
                seconds = component.seconds(frames)
            else:
                started = time.perf_counter()
                for _ in range(frames):
                    bare(session, (folder / "photo.jpg").read_bytes())
                seconds = time.perf_counter() - started
            print(json.dumps({"seconds": seconds, "processor_s": time.process_time() - used}), flush=True)
    os._exit(0)  # threads of the client may wait for a device that has gone


def compare(folder: Path, rounds: int, frames: int) -> None:
    """Run all ways in turn and print the table."""
    every = sorted(os.sched_getaffinity(0))
    one, two = every[-1:], every[-2:]
    with quota(1) as group:
        ways = [
            Way("bare loop, one core", folder / "bare", cores=one, bare=True),
            Way("one core of the mask", folder / "one", cores=one),
            Way("one core, one thread asked for", folder / "asked", cores=one, settings={"parallel": 1, "threads": 1}),
            Way(ALONE, folder / "alone", cores=one, device=one),
            Way("two cores", folder / "two", cores=two),
            Way("two cores, two threads an input", folder / "threads", cores=two, settings={"threads": 2}),
        ]
        if group:
            how = {"cores": two, "group": str(group)}
            ways += [
                Way("quota of one core of two", folder / "quota", **how),
                Way("same quota, two at a time", folder / "quota2", **how, settings={"parallel": 2}),
            ]
        first, second = (Way(PAIR, folder / f"pair{core}", cores=[core], bare=True) for core in two)
        for way in (*ways, first, second):
            way.measure(frames)  # warm
            way.rates.clear()
            way.costs.clear()
            way.used.clear()
        for _ in range(rounds):
            for way in ways:
                way.measure(frames)
            first.measure_beside(second, frames)
        table([*ways, first])
        for way in (*ways, first, second):
            way.end()


def table(ways: list[Way]) -> None:
    """Print what was measured, and the ratios that matter."""
    print("| way | at a time x threads | frames/s | processor ms a frame | running threads seen on | allowed |")
    print("|---|---|---|---|---|---|")
    for way in ways:
        whole = sum(way.used.values()) or 1
        seen = ", ".join(f"core {core}: {count / whole:.0%}" for core, count in sorted(way.used.items()))
        print(
            f"| {way.name} | {way.about['parallel']} x {way.about['threads']} | {statistics.median(way.rates):.1f} "
            f"| {statistics.median(way.costs):.2f} | {seen} | {', '.join(sorted(way.masks()))} |"
        )
    named = {way.name: way for way in ways}

    def ratio(first: str, second: str, target: str) -> None:
        if first in named and second in named:
            pairs = zip(named[first].rates, named[second].rates, strict=True)
            print(f"{first} / {second}: {statistics.median(a / b for a, b in pairs):.3f} (target {target})")

    print()
    ratio("two cores", ALONE, ">= 1.8")
    ratio("two cores", "one core of the mask", "for comparison: the device has the other core for itself")
    ratio(PAIR, "bare loop, one core", "what this machine's two cores can give")
    ratio("two cores", PAIR, "for comparison")
    ratio("one core of the mask", "bare loop, one core", ">= 0.97")
    ratio("one core of the mask", "one core, one thread asked for", ">= 1, noise aside")
    ratio("quota of one core of two", "same quota, two at a time", ">= 1, noise aside")
    ratio("two cores, two threads an input", "two cores", "for comparison")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--frames", type=int, default=60, help="of each way in a round")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(json.loads(options.serve))
        return
    mobilenet_package(ROOT / "out" / "bench" / "mobilenet")
    with tempfile.TemporaryDirectory(prefix="ew-") as scratch:
        compare(Path(scratch), options.rounds, options.frames)


if __name__ == "__main__":
    main()
