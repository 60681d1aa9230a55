"""kill -9 of component and core device of a deployed twin, at random, while requests and files come."""

import json
import random
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import REQUEST, DeployedTwin
from benchmarks.waiting import drop_file, wait_for
from twin.operator import OperatorClient

#: The share of the kills that hits the core device.
DEVICE_SHARE = 0.15
ANSWER_LIMIT_S = 120.0

PROMISE = {
    "files": "a file leaves the watched folder only once its result is published or on disk: no kill loses one",
    "requests": (
        "a request in a process that is killed, or sent while there is none, dies with it: MQTT acknowledges it "
        "between broker and core device, and the IPC has no acknowledgement at all; its client asks again"
    ),
}


@dataclass
class Work:
    """What was sent: files by name, requests by id and moment."""

    files: list[str] = field(default_factory=list)
    requests: dict[str, float] = field(default_factory=dict)


@contextmanager
def coming_in(operator: OperatorClient, watched: Path) -> Iterator[Work]:
    """Ten files and five requests a second, while in the block."""
    work, ended = Work(), threading.Event()

    def feed() -> None:
        while not ended.wait(0.1):
            number = len(work.files)
            work.files.append(f"file-{number:06}.json")
            drop_file(watched, work.files[-1])
            if number % 2:
                name = f"request-{number:06}"
                work.requests[name] = time.monotonic()
                ask(operator, name)

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield work
    finally:
        ended.set()
        feeder.join()


def ask(operator: OperatorClient, name: str) -> None:
    """Send a request; the broker has it when this returns."""
    operator.publish(REQUEST, json.dumps({"request_id": name, "index": 1}).encode())


def kills(twin: DeployedTwin, watched: Path, count: int, seed: int) -> dict[str, Any]:
    """Every file must have its result, every request its answer but those around a kill, which are asked again."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    with twin.operator() as operator, Answers.of(operator) as answers:
        before, moments, devices = twin.rss_mb(), [], 0
        with coming_in(operator, watched) as work:
            for _ in range(count):
                time.sleep(chance.uniform(0.05, 3))
                of_device = chance.random() < DEVICE_SHARE
                devices += of_device
                (twin.kill_device if of_device else twin.kill_component)()
                moments.append(time.monotonic())
            twin.wait_until_served(operator)
        lost = answers.all_of(work.files, ANSWER_LIMIT_S)
        wait_for(lambda: not list(watched.iterdir()), "an empty folder")
        unanswered = answers.all_of(list(work.requests), 0)
        away = times_without_answer(work.requests, answers.messages)
        elsewhere = [span for span in away if not any(span[0] <= moment <= span[1] for moment in moments)]
        for name in unanswered:
            ask(operator, name)
        never = answers.all_of(unanswered, ANSWER_LIMIT_S)
        found, after = [name for name in answers.ids if name in set(work.files)], twin.rss_mb()
    return {
        "promised": PROMISE,
        "kills": count, "of them of the core device": devices,
        "files": len(work.files), "results lost": len(lost), "results twice": len(found) - len(set(found)),
        "requests": len(work.requests), "unanswered at first": len(unanswered),
        "rows of them": len(away), "rows without a kill": len(elsewhere), "unanswered when asked again": len(never),
        "longest time away s": round(max((b - a for a, b in away), default=0.0), 1), "rss_mb": [before, after],
        "holds": not lost and not elsewhere and not never
        and not twin.grew(before, after),
    }  # fmt: skip


def times_without_answer(sent: dict[str, float], answered: Container[str]) -> list[tuple[float, float]]:
    """The moments of the answered requests on both sides of each row of unanswered ones.

    Requests are answered in their order: one that came before an answered one can only have been lost in between.
    """
    spans, last, missing = [], float("-inf"), False
    for name, moment in sent.items():
        if name not in answered:
            missing = True
            continue
        if missing:
            spans.append((last, moment))
        last, missing = moment, False
    return [*spans, (last, float("inf"))] if missing else spans
