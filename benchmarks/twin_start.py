"""How long the twin takes to serve again after a kill of its cloud, as its state grows.

    python -m benchmarks.twin_start [--rounds 3] [--objects 4000] [--events 100000]

Measures the start of an empty twin, then of one with so many objects and log events, each killed before and started in
turn; and how long one request waits at most meanwhile state is written. Prints medians as JSON. The commit before:
copy this file into its checkout and run it there, in turn.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from benchmarks.waiting import wait_for
from twin import lifecycle
from twin.state import TwinState

LISTENING_S = 15.0
STREAMS = 50
PART = 500


def restarted(state: TwinState) -> tuple[TwinState, float]:
    """Kill the cloud once its state is written, and start it; gives the seconds until it has answered a request."""
    time.sleep(3)
    os.kill(state.pid, signal.SIGKILL)
    wait_for(lambda: not state.running, "the cloud's end")
    began = time.monotonic()
    state = lifecycle.start(state.home)
    boto3.client("sts", **state.client_arguments()).get_caller_identity()
    return state, time.monotonic() - began


def fill(state: TwinState, objects: int, events: int) -> None:
    """Leave behind what traffic of hours does: results in a bucket that expires them, and lines of logs."""
    s3, logs = (boto3.client(name, **state.client_arguments()) for name in ("s3", "logs"))
    s3.create_bucket(Bucket="results")
    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(
            lambda number: s3.put_object(Bucket="results", Key=f"results/{number:07}.json", Body=b"{}"), range(objects)
        ):
            pass
    logs.create_log_group(logGroupName="traffic")
    for stream in range(STREAMS):
        logs.create_log_stream(logGroupName="traffic", logStreamName=f"s{stream}")
    for begun in range(0, events, PART):
        lines = [{"timestamp": int(time.time() * 1000), "message": "x" * 200}] * PART
        logs.put_log_events(logGroupName="traffic", logStreamName=f"s{begun // PART % STREAMS}", logEvents=lines)


def longest_wait(state: TwinState) -> float:
    """Seconds that one of many small requests waits at most, while a line of a log makes the state new each time."""
    sts, logs = (boto3.client(name, **state.client_arguments()) for name in ("sts", "logs"))
    longest, until = 0.0, time.monotonic() + LISTENING_S
    while time.monotonic() < until:
        event = {"timestamp": int(time.time() * 1000), "message": "y"}
        logs.put_log_events(logGroupName="traffic", logStreamName="s0", logEvents=[event])
        began = time.monotonic()
        sts.get_caller_identity()
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.02)
    return longest


def main() -> int:
    """Start, fill, restart, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="restarts of each")
    parser.add_argument("--objects", type=int, default=4000, help="objects in the bucket")
    parser.add_argument("--events", type=int, default=100_000, help="lines of logs")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        state = lifecycle.start(Path(folder))
        try:
            for name in ("empty", "full"):
                if name == "full":
                    fill(state, options.objects, options.events)
                times = []
                for _ in range(options.rounds):
                    state, took = restarted(state)
                    times.append(took)
                found[name] = round(statistics.median(times), 2)
            found["longest wait of a request"] = round(longest_wait(state), 3)
            found["state_mb"] = round(sum(path.stat().st_size for path in (state.home / "state").iterdir()) / 1e6, 1)
        finally:
            lifecycle.stop(state.home)
    found["full to empty"] = round(found["full"] / found["empty"], 2)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
