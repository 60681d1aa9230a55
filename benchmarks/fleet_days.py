"""A fleet over days of the twin's time: devices that come back after hours, and a soak that must stay flat.

    python -m benchmarks.fleet_days offline [--devices 500] [--hours 24] [--speed 60]
    python -m benchmarks.fleet_days soak [--devices 200] [--hours 24] [--speed 60]

`offline`: a deployment while 30 % of the devices have no network, who come back within the hours; all must end well,
run it once, and be notified once. `soak`: each device sends a result every 10 s; none may be lost, and memory of cloud
and fleet must stay within 5 % from the second quarter to the last. Prints JSON; ends with code 1 where that does not
hold. A day at speed 60 takes 24 minutes.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.simulated_fleet import ASKED, BEATS, Trial, memory_mb, wait
from twin import lifecycle
from twin.clock import Clock
from twin.devices import simulated_fleet
from twin.operator import OperatorClient
from twin.process import fleet_folder
from twin.simulation.profile import Lot, read_profile
from twin.simulation.storage import read_entries

AWAY = 0.3
NOTIFICATIONS = "$aws/things/+/jobs/notify-next-namespace-aws-gg-deployment"
SAMPLES = 120
FLAT = 0.05


def offline(home: Path, devices: int, hours: float, speed: float) -> dict[str, Any]:
    """A deployment at a fleet of which 30 % come back within so many hours."""
    trial = Trial(home, devices, speed, {})
    trial.join()
    first = trial.deploy("1.0.0")
    wait(lambda: trial.job(first)["numberOfSucceededThings"] == devices, "the base")
    outage = {"share": AWAY, "for_s": [60, hours * 3600]}
    profile = read_profile({"seed": 1, "offline": [outage]})
    simulated_fleet.change(trial.state, profile=profile, measuring=1)
    things = [f"sim-{number:04}" for number in range(1, devices + 1)]
    away = [thing for thing in things if Lot(profile, thing).outages()]
    limit_s = hours * 3600 / speed + 300
    notified: Counter[str] = Counter()
    with OperatorClient(trial.state) as operator, operator.listen(NOTIFICATIONS, named=True) as heard:
        began = time.monotonic()
        job = trial.deploy("1.1.0")
        connected_s = wait(
            lambda: trial.job(job)["numberOfSucceededThings"] >= devices - len(away), "those with a network", limit_s
        )
        at_first = trial.job(job)["numberOfSucceededThings"]
        wait(lambda: trial.job(job)["numberOfSucceededThings"] == devices, "those who come back", limit_s)
        took_s = time.monotonic() - began
        time.sleep(2)
        while not heard.empty():
            topic, payload = heard.get()
            if (json.loads(payload).get("execution") or {}).get("jobId") == job:
                notified[topic.split("/")[2]] += 1
    entries = read_entries(fleet_folder(home))
    told = trial.job(job)
    return {
        "devices": devices,
        "away": len(away),
        "hours": hours,
        "speed": speed,
        "connected_done_minutes": round(connected_s * speed / 60, 1),
        "done_by_then": at_first,
        "all_done_hours": round(took_s * speed / 3600, 2),
        "succeeded": told["numberOfSucceededThings"],
        "failed": told["numberOfFailedThings"],
        "notifications": sum(notified.values()),
        "notified_twice": sorted(thing for thing, times in notified.items() if times > 1),
        # A version that is deployed twice starts its component twice.
        "ran_twice": sorted(thing for thing, entry in entries.items() if entry.restarts > 1),
        "holds": told["numberOfSucceededThings"] == devices
        and all(times == 1 for times in notified.values())
        and all(entries[thing].restarts == 1 for thing in things),
    }


class Results:
    """Counts the results of all devices as they come, by their numbers."""

    def __init__(self) -> None:
        self.count = self.missing = self.twice = 0
        self._last: dict[str, int] = {}

    def take(self, heard: Any) -> None:
        """Take what has come."""
        while not heard.empty():
            result = json.loads(heard.get())
            thing, number = result["thing"], result["number"]
            last = self._last.get(thing, number - 1)
            self.count += 1
            self.twice += number <= last
            self.missing += max(0, number - last - 1)
            self._last[thing] = max(last, number)

    def silent(self, devices: int) -> int:
        """How many devices have sent nothing at all."""
        return devices - len(self._last)


def soak(home: Path, devices: int, hours: float, speed: float) -> dict[str, Any]:
    """Devices that send a result every 10 s, for so many hours."""
    messages = [{"topic": BEATS, "every_s": 10, "payload": {"label": "7", "probability": 0.93}}]
    trial = Trial(home, devices, speed, {"components": [{"component": ASKED, "messages": messages}]})
    trial.join()
    clock, results = Clock.read(trial.state.clock), Results()
    memory: list[dict[str, float]] = []
    with OperatorClient(trial.state) as operator, operator.listen(BEATS) as heard:
        job = trial.deploy("1.0.0")
        wait(lambda: trial.job(job)["numberOfSucceededThings"] == devices, "the deployment")
        began = clock.time()
        until = began + hours * 3600
        while (now := clock.time()) < until:
            results.take(heard)
            if now - began >= len(memory) * hours * 3600 / SAMPLES:
                memory.append({name: memory_mb(process) for name, process in trial.processes().items()})
                print(
                    f"{(now - began) / 3600:.1f} h: {results.count} results, {memory[-1]}", file=sys.stderr, flush=True
                )
            time.sleep(0.5)
        time.sleep(1)
        results.take(heard)
    quarter = len(memory) // 4
    growth = {
        name: statistics.median(each[name] for each in memory[-quarter:])
        / statistics.median(each[name] for each in memory[quarter : 2 * quarter])
        for name in memory[0]
    }
    expected = devices * hours * 360
    return {
        "devices": devices,
        "hours": hours,
        "speed": speed,
        "results": results.count,
        "expected": round(expected),
        "missing": results.missing,
        "twice": results.twice,
        "silent": results.silent(devices),
        "memory_mb": {name: [memory[quarter][name], memory[-1][name]] for name in memory[0]},
        "growth": {name: round(ratio, 3) for name, ratio in growth.items()},
        "holds": not results.missing
        and not results.silent(devices)
        and all(abs(ratio - 1) <= FLAT for ratio in growth.values()),
    }


def main() -> None:
    """Run one of the two and print what it found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("what", choices=("offline", "soak"))
    parser.add_argument("--devices", type=int, help="500 for offline, 200 for soak by default")
    parser.add_argument("--hours", type=float, default=24.0, help="of the twin's time (default: %(default)g)")
    parser.add_argument("--speed", type=float, default=60.0, help="of the twin (default: %(default)g)")
    options = parser.parse_args()
    run, devices = (offline, 500) if options.what == "offline" else (soak, 200)
    with tempfile.TemporaryDirectory(prefix="days-") as folder:
        home = Path(folder).resolve() / "twin"
        try:
            result = run(home, options.devices or devices, options.hours, options.speed)
        finally:
            lifecycle.stop(home, anyway=True)
    print(json.dumps({"cores": os.cpu_count(), **result}, indent=2))
    if not result["holds"]:
        sys.exit("it does not hold")


if __name__ == "__main__":
    main()
