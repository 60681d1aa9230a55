"""What an answer costs the twin as answers add up: a deployed twin, clients with requests in flight, then many at once.

    python -m benchmarks.twin_load [--answers 6000] [--published 0] [--crowd 5000] [--clients 20]

Requests are answered by the device. `--published 90000` adds answers without it: copies of one, each with an id of its
own, published on the topic that the rules listen to, which is where an answer costs the twin (an object, metrics).
The index of results grows until there are 2,000: publish as many before memory is to be flat.
Prints answers a second and CPU of the cloud for each part, and memory; ends with code 1 if a request was not answered
within ten minutes, one came after a minute, or a second crowd (of the core device the first one, too) takes more than
5 % of memory for good.
The commit before: copy this file into its checkout and run it there, in turn.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from benchmarks.deployed_twin import NAMES, REQUEST, RESPONSE, DeployedTwin
from twin import TwinError
from twin.operator import OperatorClient
from twin.process import TRIM_S

IN_FLIGHT = 8
ANSWER_LIMIT_S = 600.0
LATE_S = 60.0
PUBLISHED_PART = 10_000
DATA = {"index": 0}
FLAT = 0.05
#: What a crowd took for a moment is given back by then.
REST_S = TRIM_S + 5


def ask(client: OperatorClient) -> float | None:
    """Seconds until a request is answered; None for no answer within ten minutes."""
    began = time.monotonic()
    try:
        client.request(REQUEST, dict(DATA), RESPONSE, ANSWER_LIMIT_S)
    except TwinError:
        return None
    return time.monotonic() - began


def publish(clients: list[OperatorClient], numbers: range) -> float:
    """Publish answers as a device would, 20 at a time; gives how many a second the broker has taken."""
    answer = clients[0].request(REQUEST, dict(DATA), RESPONSE, ANSWER_LIMIT_S)

    def one(number: int) -> None:
        copy = {**answer, "id": f"copy-{number:07}", "request_id": f"copy-{number:07}"}
        clients[number % len(clients)].publish(RESPONSE, json.dumps(copy).encode(), timeout_s=ANSWER_LIMIT_S)

    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        for _ in pool.map(one, numbers):
            pass
    return len(numbers) / (time.monotonic() - began)


def memory_mb(cloud: psutil.Process, twin: DeployedTwin) -> dict[str, float]:
    """Memory in RAM of cloud, component and core device, MB."""
    return {"cloud": round(cloud.memory_info().rss / 1e6, 1), **twin.rss_mb()}


def stage(cloud: psutil.Process, clients: list[OperatorClient], count: int, in_flight: int) -> dict[str, Any]:
    """Put `count` requests, so many at a time, spread over the clients."""
    before, began = cloud.cpu_times(), time.monotonic()
    with ThreadPoolExecutor(in_flight) as pool:
        times = list(pool.map(lambda number: ask(clients[number % len(clients)]), range(count)))
    answered = [each for each in times if each is not None]
    took, after = time.monotonic() - began, cloud.cpu_times()
    cpu = after.user + after.system - before.user - before.system
    return {
        "answers": len(answered),
        "lost": count - len(answered),
        "late": sum(each > LATE_S for each in answered),
        "a_second": round(len(answered) / took, 1),
        "cpu_ms_a_request": round(cpu / count * 1000, 2),
        "cloud_mb": round(cloud.memory_info().rss / 1e6, 1),
    }


def main() -> int:
    """Deploy, load, print; 1 if a request was not answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=6000, help="answers with eight requests in flight")
    parser.add_argument("--published", type=int, default=0, help="answers published without the device after that")
    parser.add_argument("--part", type=int, default=500, help="answers of one line")
    parser.add_argument("--crowd", type=int, default=5000, help="requests at once at the end")
    parser.add_argument("--clients", type=int, default=20, help="clients of the crowd")
    options = parser.parse_args()
    lost, grown = 0, 0.0
    threading.stack_size(256 << 10)
    with tempfile.TemporaryDirectory() as folder, DeployedTwin(Path(folder)) as twin, ExitStack() as stack:
        twin.bootstrap()
        twin.deploy.deploy()
        twin.deploy.wait_for_device(NAMES.edge_server, timeout_s=120)
        cloud = psutil.Process(twin.state.pid)
        clients = [stack.enter_context(twin.operator()) for _ in range(options.clients)]
        ask(clients[0])
        for _ in range(options.answers // options.part):
            found = stage(cloud, clients[:1], options.part, IN_FLIGHT)
            print(json.dumps({**found, **twin.rss_mb()}), flush=True)
            lost += found["lost"]
        for begun in range(0, options.published, PUBLISHED_PART):
            count = min(PUBLISHED_PART, options.published - begun)
            rate = round(publish(clients, range(begun, begun + count)), 1)
            print(json.dumps({"published": begun + count, "a_second": rate, **memory_mb(cloud, twin)}), flush=True)
        if options.crowd:
            # The first crowd fills what is bounded in cloud and component (threads, buffers, the client of S3), and the
            # allocators keep that: only what the next one adds would go on for ever.
            time.sleep(REST_S)
            first = memory_mb(cloud, twin)
            print(json.dumps({"before the first crowd": first}), flush=True)
            lost += stage(cloud, clients, options.crowd, options.crowd)["lost"]
            time.sleep(REST_S)
            before = {**memory_mb(cloud, twin), "core device": first["core device"]}
            for name, in_flight in (("in turn", options.clients), ("at once", options.crowd)):
                found = stage(cloud, clients, options.crowd, in_flight)
                print(json.dumps({"crowd": name, **found, **twin.rss_mb()}), flush=True)
                lost += found["lost"] + found["late"]
            time.sleep(REST_S)
            after = memory_mb(cloud, twin)
            grown = max(after[name] / before[name] - 1 for name in before)
            print(json.dumps({"before": before, "after": after, "grown": round(grown, 3)}), flush=True)
        began = time.monotonic()
        alive = ask(clients[0]) is not None
        print(json.dumps({"answers_afterwards": alive, "s": round(time.monotonic() - began, 2)}))
    return 0 if alive and not lost and grown <= FLAT else 1


if __name__ == "__main__":
    sys.exit(main())
