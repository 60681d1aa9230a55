"""Outages of a deployed twin: the cloud is away, the disk is full meanwhile."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.arriving_answers import Answers
from benchmarks.deployed_twin import NAMES, DeployedTwin, wait_for_process
from benchmarks.edge_outages import fill, in_order, small_disk
from benchmarks.waiting import drop_file, wait_for
from twin.operator import OperatorClient

CATCH_UP_S = 180.0
DISK_MB = 2


@contextmanager
def cloud_comes_back(twin: DeployedTwin) -> Iterator[tuple[OperatorClient, Answers]]:
    """Start the cloud; the core device is let back once somebody listens, so that each of its messages is seen."""
    device = twin.device
    device.suspend()
    try:
        twin.start_cloud()
        with twin.operator() as operator, Answers.of(operator) as answers:
            device.resume()
            yield operator, answers
    finally:
        device.resume()


def broker_away(twin: DeployedTwin, watched: Path, away_s: float) -> dict[str, Any]:
    """Ten files a second while broker and S3 are gone, and a kill of the component in the middle."""
    before = twin.rss_mb()
    twin.kill_cloud()
    sent: list[str] = []
    for number in range(int(away_s * 10)):
        if number == int(away_s * 5):
            twin.kill_component()
        sent.append(f"away-{number:06}.json")
        drop_file(watched, sent[-1])
        time.sleep(0.1)
    with cloud_comes_back(twin) as (operator, answers):
        started = time.monotonic()
        lost = answers.all_of(sent, CATCH_UP_S)
        caught_up_s, found = time.monotonic() - started, [name for name in answers.ids if name in set(sent)]
        served_s = twin.wait_until_served(operator)
        after = twin.rss_mb()
    return {
        "away_s": away_s, "files": len(sent), "lost": len(lost), "answered twice": len(found) - len(set(found)),
        "in order": in_order(found), "caught up in s": round(caught_up_s, 1), "then served in s": round(served_s, 1),
        "rss_mb": [before, after],
        "holds": not lost and in_order(found) and not twin.grew(before, after),
    }  # fmt: skip


def disk_full(twin: DeployedTwin, watched: Path) -> dict[str, Any]:
    """The component's work folder has no room left while the cloud is away, and the component is killed."""
    with small_disk(twin.root / "work" / NAMES.inference_component, DISK_MB) as disk:
        # A process has its working folder from its start.
        twin.kill_component()
        wait_for(lambda: (disk / "spool.sqlite").exists(), "a component on the small disk")
        with twin.operator() as operator:
            twin.wait_until_served(operator)
        before = twin.rss_mb()
        twin.kill_cloud()
        fill(disk)
        sent = [f"full-{number:06}.json" for number in range(300)]
        for name in sent[:150]:
            drop_file(watched, name)
        time.sleep(5)
        twin.kill_component()
        for name in sent[150:]:
            drop_file(watched, name)
        time.sleep(5)
        kept = len(list(watched.iterdir()))
        refused = "cannot be written" in twin.log(NAMES.inference_component)
        wait_for_process(lambda: twin.component)
        with cloud_comes_back(twin) as (operator, answers):
            lost, found = answers.all_of(sent, CATCH_UP_S), list(answers.ids)
            wait_for(lambda: not list(watched.iterdir()), "an empty folder")
            full_s = twin.wait_until_served(operator)
            (disk / "filler").unlink()
            room_s, after = twin.wait_until_served(operator), twin.rss_mb()
            twin.kill_component()
    with twin.operator() as operator:
        twin.wait_until_served(operator)
    return {
        "disk MB": DISK_MB, "files": len(sent), "kept in the folder while full": kept,
        "the log tells of the full disk": refused, "lost": len(lost),
        "answered twice": len(found) - len(set(found)), "served on the full disk in s": round(full_s, 1),
        "served with room in s": round(room_s, 1), "rss_mb": [before, after],
        "holds": not lost and refused and not twin.grew(before, after),
    }  # fmt: skip
