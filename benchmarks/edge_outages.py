"""Outages: kills at random, broker away, disk full, S3 refusing, a clock that jumps. What is lost, hangs or grows.

    .venv/bin/python benchmarks/edge_outages.py [--only NAME] [--kills 50] [--away 60]

The component is a real process on the twin's IPC server. The report goes to standard output as JSON; the exit code is 1
when a fault breaks its rule. A full disk needs root (a tmpfs), a jumping clock libfaketime (apt install libfaketime).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

for root in (".", "constructs", "edge_assets/inference"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from benchmarks.running_component import RunningComponent
from benchmarks.waiting import wait_for
from tests.edge.test_s3_objects import Service, environment

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
Report = dict[str, Any]


def in_order(found: list[str]) -> bool:
    """Whether answers came in the order of their requests, repetitions aside."""
    firsts = list(dict.fromkeys(found))
    return firsts == sorted(firsts)


def kills(folder: Path, count: int, seed: int) -> Report:
    """Files keep coming while the process is killed at random; every file must have its result."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    with RunningComponent(folder) as component:
        stop, sent = threading.Event(), list[str]()

        def feed() -> None:
            while not stop.wait(0.02):
                component.drop_file(f"{len(sent):06}.json")
                sent.append(f"{len(sent):06}.json")

        feeder = threading.Thread(target=feed)
        feeder.start()
        for _ in range(count):
            time.sleep(chance.uniform(0.05, 1.5))
            component.kill()
            component.start(wait=False)
        stop.set()
        feeder.join()
        found = component.answers(lambda ids: len(set(ids)) >= len(sent))
        # The last file goes a moment after its result.
        left = ["?"]
        for _ in range(50):
            left = [file.name for file in component.watched.iterdir()]
            if left:
                time.sleep(0.1)
    lost = set(sent) - set(found)
    return {
        "kills": count, "files": len(sent), "lost": len(lost), "answered twice": len(found) - len(set(found)),
        "left in the folder": len(left), "holds": not lost and not left,
    }  # fmt: skip


def broker_away(folder: Path, away_s: float) -> Report:
    """Ten requests a second while nothing can be published, and a kill in the middle."""
    with RunningComponent(folder) as component:
        before = component.rss_mb
        component.go_away()
        sent: list[str] = []
        killed_at = int(away_s * 5)
        for number in range(int(away_s * 10)):
            if number == killed_at:
                wait_for(lambda: component.spooled() == killed_at, "the answers on disk")
                component.kill()
                component.start()
            sent.append(f"{number:06}")
            component.ask(sent[-1])
            time.sleep(0.1)
        wait_for(lambda: component.spooled() == len(sent), "the answers on disk")
        after = component.rss_mb
        component.come_back()
        started = time.monotonic()
        found = component.answers(lambda ids: len(set(ids)) >= len(sent))
        caught_up_s = time.monotonic() - started
    lost = set(sent) - set(found)
    return {
        "away_s": away_s, "requests": len(sent), "lost": len(lost), "answered twice": len(found) - len(set(found)),
        "in order": in_order(found), "caught up in s": round(caught_up_s, 1), "rss_mb": [before, after],
        "holds": not lost and in_order(found) and after - before < 10,
    }  # fmt: skip


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own; needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> None:
    """Take all that is left of a disk."""
    with (disk / "filler").open("ab", buffering=0) as filler:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    filler.write(b"x" * size)
            except OSError:
                continue


def disk_full(folder: Path) -> Report:
    """The disk fills up while nothing can be published; later there is room again."""
    if os.geteuid():
        return {"skipped": "a small disk needs root"}
    with small_disk(folder / "disk", 2) as disk, RunningComponent(folder / "device", state=disk) as component:
        component.go_away()
        component.ask("000000")
        wait_for(lambda: component.spooled() == 1, "the first answer on disk")
        fill(disk)
        sent = [f"{number:06}" for number in range(300)]
        for name in sent[1:]:
            component.ask(name)
        for number in range(10):
            component.drop_file(f"{number}.json")
        wait_for(lambda: "cannot be written" in component.log.read_text(), "word of the full disk")
        time.sleep(2)
        kept = len([file for file in component.watched.iterdir() if file.suffix == ".json"])
        component.come_back()
        found = component.answers(lambda ids: len(set(ids)) >= len(sent) + 10)
        full_lost = (set(sent) | {f"{number}.json" for number in range(10)}) - set(found)
        component.go_away()
        (disk / "filler").unlink()
        later = [f"later-{number:03}" for number in range(100)]
        for name in later:
            component.ask(name)
        wait_for(lambda: component.spooled() == len(later), "the answers on the disk that has room again")
        component.kill()
        component.come_back()
        component.start()
        found = component.answers(lambda ids: len(set(ids)) >= len(later))
    lost = len(full_lost) + len(set(later) - set(found))
    return {
        "answers while full": len(sent) + 10, "files kept until their results were out": kept,
        "answers after": len(later), "lost": lost, "holds": not lost and kept == 10,
    }  # fmt: skip


def s3_refuses(folder: Path) -> Report:
    """S3 answers 403, then 503, then takes the captures of every prediction."""
    with Service() as service:
        threading.Thread(target=service.serve_forever, daemon=True).start()
        settings = {"captureBucket": "bucket", "captureBytes": 1 << 20}
        with RunningComponent(folder, environment=environment(service), service=settings, captureShare=1) as component:
            before = component.rss_mb
            answered = 0
            for status in (403, 503):
                service.status = status
                for number in range(200):
                    component.ask(f"{status}-{number:03}")
                    time.sleep(0.02)
                answered += len(component.answers(lambda ids: len(ids) >= 200))
                time.sleep(6)
            waiting = len(list((component.state / "captures").glob("*.json")))
            service.status = 200

            def uploaded() -> list[str]:
                records = [body.splitlines() for path, body in service.objects.items() if path.endswith(".jsonl")]
                return [json.loads(line)["request_id"] for lines in records for line in lines]

            wait_for(lambda: len(set(uploaded())) >= waiting, "the captures in S3", limit_s=120)
            wait_for(lambda: not list((component.state / "captures").glob("*.json")), "an empty folder")
            ids, after = uploaded(), component.rss_mb
        service.shutdown()
    lost = 400 - len(set(ids))
    return {
        "predictions": 400, "answered meanwhile": answered, "captures that waited": waiting,
        "uploaded": len(set(ids)), "lost": lost, "uploaded twice": len(ids) - len(set(ids)),
        "rss_mb": [before, after], "holds": answered == 400 and not lost and after - before < 15,
    }  # fmt: skip


def clock_jumps(folder: Path, library: Path) -> Report:
    """The wall clock jumps ahead and back; waits, intervals and answers must not notice."""
    if not library.is_file():
        return {"skipped": f"{library} is not there: apt install libfaketime, or --faketime FILE"}
    folder.mkdir()
    offset = folder / "offset"
    offset.write_text("+0s\n")
    faked = {
        "LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    outcomes: Report = {}
    (folder / "request.json").write_text('{"index": 1}')
    picture: dict[str, Any] = {"ImageName": "request.json", "ImageDirectory": str(folder), "InferenceInterval": 1}
    with RunningComponent(folder / "device", environment=faked, **picture) as component:
        component.device.answer(20)
        for jump in ("+1d", "-2d", "-3650d", "+0s"):
            offset.write_text(f"{jump}\n")
            component.ask(f"asked{jump}")
            moments: list[float] = []
            answered_at = ""
            started = time.monotonic()
            while time.monotonic() - started < 6:
                answer = component.device.answer(5)
                if answer["request_id"] == f"asked{jump}":
                    answered_at = answer["timestamp"][:10]
                else:
                    moments.append(time.monotonic())
            component.go_away()
            component.ask(f"away{jump}")
            time.sleep(1)
            component.come_back()
            found = component.answers(lambda ids, jump=jump: f"away{jump}" in ids, 20)  # type: ignore[misc]
            gaps = [later - earlier for earlier, later in pairwise(moments)]
            outcomes[jump] = {
                "answered on (by the component's clock)": answered_at,
                "longest pause of a 1 s interval": round(max(gaps), 2), "predictions in 6 s": len(moments),
                "after an outage": f"away{jump}" in found,
                "holds": bool(answered_at) and max(gaps) < 3 and len(moments) <= 8 and f"away{jump}" in found,
            }  # fmt: skip
    return {**outcomes, "holds": all(outcome["holds"] for outcome in outcomes.values())}


def main(
    only: str = typer.Option("", help="One fault (default: all)."),
    kill_count: int = typer.Option(50, "--kills", min=1),
    away: float = typer.Option(60, min=5, help="Seconds without a broker."),
    faketime: Path = typer.Option(FAKETIME, help="The library that fakes the clock."),  # noqa: B008 - typer's way
    seed: int = typer.Option(1, help="Of the kills' moments."),
) -> None:
    """Bring the faults about, one after the other, and print the report."""
    faults: dict[str, Callable[[Path], Report]] = {
        "kill -9 at random": lambda folder: kills(folder, kill_count, seed),
        "broker away": lambda folder: broker_away(folder, away),
        "disk full": disk_full,
        "S3 refusing": s3_refuses,
        "clock jumping": lambda folder: clock_jumps(folder, faketime),
    }
    report: Report = {}
    for name, fault in faults.items():
        if only and only != name:
            continue
        with tempfile.TemporaryDirectory(prefix="edgewright-") as temporary:
            started = time.monotonic()
            report[name] = fault(Path(temporary) / "run")
            report[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{name}: {report[name].get('holds', 'skipped')}", file=sys.stderr)
    print(json.dumps(report, indent=1))
    raise typer.Exit(int(any(part.get("holds") is False for part in report.values())))


if __name__ == "__main__":
    typer.run(main)
