"""Traffic for hours on a deployed twin, with a random fault every 20 s: what is lost, and how soon it serves again.

    sudo .venv/bin/python benchmarks/twin_soak.py [--minutes 60] [--every 20] [--seed 1]

Policies are evaluated. The report goes to standard output as JSON, each fault to standard error; the exit code is 1 if
an acknowledged result is lost or a fault takes longer than 15 s. A small disk needs root, a cut `ss` (iproute2).
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import boto3
import psutil
import typer
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, REQUEST, DeployedTwin, remove, wait_for_process
from benchmarks.edge_outages import fill, small_disk
from benchmarks.twin_fault_kills import PROMISE, ask
from benchmarks.twin_faults import configure
from benchmarks.waiting import drop_file, wait_for
from twin import TwinError
from twin.operator import OperatorClient

SERVED_LIMIT_S = 15.0
GIVE_UP_S = 180.0
CATCH_UP_S = 120.0
FILES_A_SECOND, REQUESTS_A_SECOND = 5, 5
DISK_MB = 4
RESULTS = "results/model=digits/"


@dataclass
class Traffic:
    """What was sent: names of files, and of requests that the broker has taken, with the moment before."""

    files: list[str] = field(default_factory=list)
    requests: dict[str, float] = field(default_factory=dict)


@contextmanager
def coming_in(operator: OperatorClient, watched: Path) -> Iterator[Traffic]:
    """Files and requests at a steady pace while in the block; a request waits for the broker, a file for nobody."""
    traffic, ended = Traffic(), threading.Event()

    def feed_files() -> None:
        while not ended.wait(1 / FILES_A_SECOND):
            name = f"file-{len(traffic.files):07}.json"
            drop_file(watched, name)
            traffic.files.append(name)

    def feed_requests() -> None:
        while not ended.wait(1 / REQUESTS_A_SECOND):
            name, began = f"request-{len(traffic.requests):07}", time.monotonic()
            with suppress(TwinError):
                operator.publish(REQUEST, json.dumps({"request_id": name, "index": 1}).encode(), timeout_s=1)
                traffic.requests[name] = began

    feeders = [threading.Thread(target=feed_files), threading.Thread(target=feed_requests)]
    for feeder in feeders:
        feeder.start()
    try:
        yield traffic
    finally:
        ended.set()
        for feeder in feeders:
            feeder.join()


class Stored:
    """The request ids of all results that are in S3, read as they come: S3 says what is kept, not a listener.

    Args:
        twin: The deployed one.
    """

    def __init__(self, twin: DeployedTwin) -> None:
        self.ids: Counter[str] = Counter()
        self._twin, self._known, self._ended = twin, set[str](), threading.Event()
        self._thread = threading.Thread(target=self._collect, daemon=True)

    @contextmanager
    def reading(self) -> Iterator["Stored"]:
        """Read new results every ten seconds while in the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self._ended.set()
            self._thread.join()

    def read(self) -> None:
        """Read what is new; a cloud that is away is asked again the next time."""
        config = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20)
        with suppress(ClientError, BotoCoreError):
            s3 = boto3.client("s3", config=config, **self._twin.state.client_arguments())
            bucket = NAMES.artifact_bucket(self._twin.state.account, self._twin.state.region)
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=RESULTS):
                for key in [each["Key"] for each in page.get("Contents", []) if each["Key"] not in self._known]:
                    result = json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read())
                    self.ids[str(result["request_id"])] += 1
                    self._known.add(key)

    def _collect(self) -> None:
        while not self._ended.wait(10):
            self.read()


class Faults:
    """What goes wrong, each by a method that returns the moment from which the twin has all that it needs again.

    Args:
        twin: The deployed one.
        disk: The small one that the component's work folder is on.
        chance: Decides how long.
    """

    def __init__(self, twin: DeployedTwin, disk: Path, chance: random.Random) -> None:
        self._twin, self._disk, self._chance = twin, disk, chance

    def kill_component(self) -> float:
        """SIGKILL of the inference component."""
        self._twin.kill_component()
        return time.monotonic()

    def kill_device(self) -> float:
        """SIGKILL of the core device."""
        self._twin.kill_device()
        return time.monotonic()

    def kill_cloud(self) -> float:
        """SIGKILL of broker, S3 and all else of the cloud at any moment, then `up`."""
        os.kill(self._twin.state.pid, signal.SIGKILL)
        began = time.monotonic()
        self._twin.start_cloud()
        return began

    def cut(self) -> float:
        """Every connection to the broker is broken again and again for some seconds."""
        until = time.monotonic() + self._chance.uniform(1, 8)
        command = ["ss", "--kill", "dst", "127.0.0.1", "dport", "=", str(self._twin.state.mqtt_port)]
        while time.monotonic() < until:
            subprocess.run(command, capture_output=True, check=True)
            time.sleep(0.1)
        return time.monotonic()

    def silence(self) -> float:
        """Nothing arrives for some seconds, and no connection ends: the broker's process is stopped."""
        cloud = psutil.Process(self._twin.state.pid)
        cloud.suspend()
        try:
            time.sleep(self._chance.uniform(1, 8))
        finally:
            cloud.resume()
        return time.monotonic()

    def full_disk(self) -> float:
        """No room for the component's state for some seconds."""
        fill(self._disk)
        time.sleep(self._chance.uniform(1, 8))
        (self._disk / "filler").unlink()
        return time.monotonic()

    def full_disk_and_kill(self) -> float:
        """The component is killed while its disk is full, and starts on the full disk."""
        fill(self._disk)
        self._twin.kill_component()
        wait_for_process(lambda: self._twin.component)
        time.sleep(self._chance.uniform(1, 4))
        (self._disk / "filler").unlink()
        return time.monotonic()

    def all(self) -> dict[str, Callable[[], float]]:
        """Each by its name."""
        return {
            "kill the component": self.kill_component,
            "kill the core device": self.kill_device,
            "kill the cloud": self.kill_cloud,
            "cut the connections": self.cut,
            "silence": self.silence,
            "disk full": self.full_disk,
            "disk full and a kill": self.full_disk_and_kill,
        }


def served_after(traffic: Traffic, answers: Answers, moment: float) -> float | None:
    """Seconds from a moment to the first answer to a request that was sent after it; None for none within 180 s."""

    def answered() -> bool:
        names = takewhile(lambda name: traffic.requests[name] >= moment, reversed(list(traffic.requests)))
        return any(name in answers.messages for name in names)

    return time.monotonic() - moment if answers.wait(answered, GIVE_UP_S) else None


def soak(twin: DeployedTwin, watched: Path, *, minutes: float, every_s: float, seed: int) -> dict[str, Any]:
    """Bring faults about for so long, then count."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    took: dict[str, list[float | None]] = {}
    with (
        small_disk(twin.root / "work" / NAMES.inference_component, DISK_MB) as disk,
        twin.operator() as operator,
        Answers.of(operator) as answers,
        Stored(twin).reading() as stored,
    ):
        # A process has its working folder from its start.
        twin.kill_device()
        wait_for(lambda: (disk / "spool.sqlite").exists(), "a component on the small disk", GIVE_UP_S)
        twin.wait_until_served(operator)
        faults = Faults(twin, disk, chance).all()
        before, cloud_before = twin.rss_mb(), psutil.Process(twin.state.pid).memory_info().rss
        with coming_in(operator, watched) as traffic:
            began = time.monotonic()
            for number in range(int(minutes * 60 / every_s)):
                time.sleep(max(0.0, began + number * every_s + chance.uniform(0, every_s / 4) - time.monotonic()))
                name = chance.choice(list(faults))
                moment = faults[name]()
                found = served_after(traffic, answers, moment)
                took.setdefault(name, []).append(found)
                tell(f"{number}: {name}: {'not served again' if found is None else f'{found:.1f} s'}")
        wait_for(lambda: not list(watched.iterdir()), "an empty folder", CATCH_UP_S)
        unanswered = answers.all_of(list(traffic.requests), SERVED_LIMIT_S)
        acknowledged = [*traffic.files, *(name for name in traffic.requests if name in answers.messages)]
        for name in unanswered:
            ask(operator, name)
        never = answers.all_of(unanswered, CATCH_UP_S)
        with suppress(TimeoutError):
            wait_for(lambda: stored.ids.keys() >= set(acknowledged), "all results in S3", CATCH_UP_S)
        after, cloud_after = twin.rss_mb(), psutil.Process(twin.state.pid).memory_info().rss
    lost = [name for name in acknowledged if name not in stored.ids]
    slow = [each for times in took.values() for each in times if each is None or each > SERVED_LIMIT_S]
    return {
        "promised": PROMISE,
        "minutes": minutes,
        "faults": {
            name: {
                "times": len(times),
                "served again in s, median": round(statistics.median(each or GIVE_UP_S for each in times), 1),
                "at most": round(max(each or GIVE_UP_S for each in times), 1),
            }
            for name, times in sorted(took.items())
        },
        "files": len(traffic.files), "requests": len(traffic.requests), "acknowledged": len(acknowledged),
        "acknowledged and not in S3": len(lost), "for example": lost[:5],
        "in S3 twice": sum(stored.ids[name] > 1 for name in acknowledged),
        "unanswered at first": len(unanswered), "unanswered when asked again": len(never),
        "later than 15 s": len(slow),
        "rss_mb": [before, after], "cloud_mb": [round(cloud_before / 1e6, 1), round(cloud_after / 1e6, 1)],
        "holds": not lost and not never and not slow,
    }  # fmt: skip


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def main(
    minutes: float = typer.Option(60, min=1, help="How long there are faults."),
    every: float = typer.Option(20, min=5, help="Seconds from one fault to the next."),
    seed: int = typer.Option(1, help="Of the faults and their moments."),
    keep: bool = typer.Option(False, help="Keep the folder of the run, with its logs."),
) -> None:
    """Deploy a twin, keep it busy and in trouble, and print the report."""
    if os.geteuid():
        raise typer.BadParameter("this must be run by root, who may mount a small disk and cut connections")
    # As Ctrl-C: the twin is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="edgewright-"))
    watched = folder / "watched"
    watched.mkdir()
    twin = DeployedTwin(folder, auth=True)
    configure(twin.app, watched)
    try:
        with twin:
            tell("deploying …")
            twin.bootstrap()
            twin.deploy.deploy()
            twin.deploy.wait_for_device(NAMES.edge_server, timeout_s=180)
            report = soak(twin, watched, minutes=minutes, every_s=every, seed=seed)
    finally:
        if keep:
            tell(f"kept: {folder}")
        else:
            remove(folder)
    print(json.dumps(report, indent=1))
    raise typer.Exit(int(not report["holds"]))


if __name__ == "__main__":
    typer.run(main)
