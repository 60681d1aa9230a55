"""Measure the live page: how old a change is when it is first shown, and what its server takes of a core at rest.

Run: `.venv/bin/python benchmarks/live_page.py [25]`, with the number of core devices; it needs a Chromium. A change's
time is the device's or the job's own, on the same clock; a job's is in whole seconds, as on AWS, so that up to a second
of its age is the clock's. Result: `benchmarks/live_page.json`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import boto3
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.device_fleet import NAME, recipe, wait
from config.names import Names
from tools.screenshots import HOW, Browser, browser, find, page_of
from twin import lifecycle
from twin.devices.membership import set_own_devices
from twin.state import TwinState

RESULT = Path(__file__).with_suffix(".json")
GROUP = Names("twin").thing_group
REST_S = 30
WHOLE = ".000"


def processor_s(pid: int) -> float:
    """What a process has taken of a core so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def at_rest(pid: int) -> float:
    """Per cent of a core that the server takes while one browser looks and nothing happens."""
    before, began = processor_s(pid), time.monotonic()
    time.sleep(REST_S)
    return round(100 * (processor_s(pid) - before) / (time.monotonic() - began), 2)


def deploy(state: TwinState, count: int, version: str) -> None:
    """Deploy a component that only waits to all devices, and wait until they have it."""
    greengrass, iot = (boto3.client(each, **state.client_arguments()) for each in ("greengrassv2", "iot"))
    document = json.loads(recipe()) | {"ComponentVersion": version}
    greengrass.create_component_version(inlineRecipe=json.dumps(document).encode())
    target = iot.describe_thing_group(thingGroupName=GROUP)["thingGroupArn"]
    made = greengrass.create_deployment(targetArn=target, components={NAME: {"componentVersion": version}})
    process = "jobProcessDetails"
    wait(lambda: iot.describe_job(jobId=made["iotJobId"])["job"][process]["numberOfSucceededThings"] == count)


def measure(state: TwinState, chromium: Browser, pid: int, url: str, count: int) -> dict[str, Any]:
    """Let devices join, deploy to them twice, and look at the page."""
    set_own_devices(state, count, group=GROUP, dialect="lite")
    greengrass = boto3.client("greengrassv2", **state.client_arguments())
    wait(lambda: len(greengrass.list_core_devices(maxResults=100)["coreDevices"]) == count)
    chromium.do("open", url=url)
    rows = "[...document.querySelectorAll('#devices tbody tr')]"
    healthy = f"{rows}.filter((row) => /healthy/.test(row.innerText)).length === {count}"
    chromium.wait(healthy)
    rest = at_rest(pid)
    shown: list[tuple[str, float]] = []
    for version in ("1.0.0", "1.1.0"):
        chromium.do("evaluate", code="window.shown.length = 0")
        deploy(state, count, version)
        ended = f"{rows}.filter((row) => /succeeded/.test(row.innerText)).length === {count}"
        chromium.wait(ended)
        time.sleep(3)
        shown += chromium.do("evaluate", code="window.shown")
    return {
        "devices": count,
        "of_devices": figures([age for key, age in shown if not key.endswith(WHOLE)]),
        "of_jobs_in_whole_seconds": figures([age for key, age in shown if key.endswith(WHOLE)]),
        "server_at_rest_percent_of_a_core": rest,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def figures(ages: list[float]) -> dict[str, float]:
    """How old changes were when the page showed them first, seconds."""
    ages = sorted(ages) or [0.0]
    late = ages[int(0.95 * (len(ages) - 1))]
    return {
        "changes": len(ages),
        "median": round(median(ages), 2),
        "p95": round(late, 2),
        "slowest": round(ages[-1], 2),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=25, help="core devices (default: %(default)s)")
    count = parser.parse_args().count
    if (executable := find()) is None:
        print(HOW, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        home = Path(folder).resolve() / "twin"
        try:
            state = lifecycle.start(home)
            with page_of(home) as (url, pid), browser(executable) as chromium:
                result = measure(state, chromium, pid, url, count)
        finally:
            lifecycle.stop(home)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
