"""What simulated devices cost: to join, one deployment to all, requests meanwhile, memory, and rollouts that abort.

    python -m benchmarks.simulated_fleet [100 300 1000] [--rollouts 1000] [--reference]

Each size has a twin of its own. Figures in real seconds depend on what else the machine does; CPU seconds hardly do.
Writes `simulated_fleet.json`, `simulated_fleet.md` and `simulated_fleet.svg` beside this file.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import psutil

from twin import TwinError, lifecycle
from twin.devices import simulated_fleet
from twin.devices.membership import set_own_devices
from twin.operator import OperatorClient
from twin.process import processes_where
from twin.simulation.identities import status
from twin.simulation.profile import Lot, Profile, read_profile

RESULT = Path(__file__).with_suffix(".json")
NAME, ASKED = "com.example.Modelled", "com.example.Asked"
GROUP, BUCKET = "many", "benchmark-artifacts"
BEATS = "many/beats"
LIMIT_S = 900.0
LIMIT = 0.05
#: Of 1,000 devices 41 fail where 4 % are to, never 5 % of those before; with others the draw may reach the limit.
SEED = 5
PROFILE = {
    "components": [
        {
            "component": ASKED,
            "messages": [{"topic": BEATS, "every_s": 10}],
            "answers": [{"topic": "many/{thing}/ask", "answer": "many/{thing}/said"}],
        }
    ]
}


def recipe(name: str, version: str) -> bytes:
    """A component with an artifact of a megabyte."""
    manifest = {
        "Platform": {"os": "linux", "runtime": "*"},
        "Lifecycle": {"install": "true", "run": "sleep 3600"},
        "Artifacts": [{"Uri": f"s3://{BUCKET}/weights.bin"}],
    }
    head = {"RecipeFormatVersion": "2020-01-25", "ComponentName": name, "ComponentVersion": version}
    return json.dumps({**head, "Manifests": [manifest]}).encode()


def wait(condition: Any, what: str, limit_s: float = LIMIT_S) -> float:
    """Wait until a condition holds; returns seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"{what}: not within {limit_s:g} s")
        time.sleep(0.25)
    return round(time.monotonic() - began, 1)


class Trial:
    """A twin with simulated devices."""

    def __init__(self, home: Path, count: int, speed: float = 1.0, profile: Any = None) -> None:
        self.state, self.count = lifecycle.start(home, speed=speed), count
        self.profile = read_profile(PROFILE if profile is None else profile)
        arguments = self.state.client_arguments()
        self.iot, self.greengrass = boto3.client("iot", **arguments), boto3.client("greengrassv2", **arguments)
        s3 = boto3.client("s3", **arguments)
        s3.create_bucket(Bucket=BUCKET)
        s3.put_object(Bucket=BUCKET, Key="weights.bin", Body=os.urandom(1_000_000))
        self.greengrass.create_component_version(inlineRecipe=recipe(ASKED, "1.0.0"))

    def join(self) -> dict[str, float]:
        """Let the devices join; seconds until all are registered, and until all have told their status."""
        began = time.monotonic()
        simulated_fleet.set_count(self.state, self.count, group=GROUP, profile=self.profile)
        registered_s = round(time.monotonic() - began, 1)
        pages = self.greengrass.get_paginator("list_core_devices")
        wait(lambda: sum(len(page["coreDevices"]) for page in pages.paginate()) == self.count, "all are there")
        return {"registered_s": registered_s, "joined_s": round(time.monotonic() - began, 1)}

    def deploy(self, version: str, configuration: dict[str, Any] | None = None) -> str:
        """Publish a version and deploy it to all, beside a component that stays as it is; the job."""
        self.greengrass.create_component_version(inlineRecipe=recipe(NAME, version))
        target = f"arn:aws:iot:{self.state.region}:{self.state.account}:thinggroup/{GROUP}"
        made = self.greengrass.create_deployment(
            targetArn=target,
            components={NAME: {"componentVersion": version}, ASKED: {"componentVersion": "1.0.0"}},
            **({"iotJobConfiguration": configuration} if configuration else {}),
        )
        return str(made["iotJobId"])

    def job(self, job: str) -> dict[str, Any]:
        """Status and numbers of a job."""
        found = self.iot.describe_job(jobId=job)["job"]
        return {"status": found["status"], **found["jobProcessDetails"]}

    def processes(self) -> dict[str, psutil.Process]:
        """The cloud and the fleet."""
        said = status(self.state.home) or {}
        return {"cloud": psutil.Process(self.state.pid), "fleet": psutil.Process(int(said["pid"]))}


def cpu_s(processes: dict[str, psutil.Process]) -> dict[str, float]:
    """CPU seconds so far."""
    return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}


def memory_mb(process: psutil.Process) -> float:
    """Proportional set size: pages that processes share are counted once."""
    return round(process.memory_full_info().pss / 1e6, 1)


@contextmanager
def asking(trial: Trial, result: dict[str, Any]) -> Iterator[None]:
    """Ask devices that run the component, one after the other, and count the beats of all."""
    took: list[float] = []
    lost: list[str] = []
    stop = threading.Event()
    numbers: dict[str, list[int]] = {}
    with OperatorClient(trial.state) as operator, operator.listen(BEATS) as heard:

        def ask() -> None:
            number = 0
            while not stop.is_set():
                thing = f"sim-{number % trial.count + 1:04}"
                number += 1
                began = time.monotonic()
                try:
                    operator.request(f"many/{thing}/ask", {}, f"many/{thing}/said", timeout_s=10)
                    took.append(time.monotonic() - began)
                except TwinError as exc:
                    lost.append(f"{thing}: {exc}")
                stop.wait(0.05)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        time.sleep(1)
        while not heard.empty():
            beat = json.loads(heard.get())
            numbers.setdefault(beat["thing"], []).append(beat["number"])
    beats = sum(map(len, numbers.values()))
    missing = sum(max(heard_of) - min(heard_of) + 1 - len(heard_of) for heard_of in numbers.values())
    took.sort()
    result.update(
        requests=len(took) + len(lost),
        requests_lost=len(lost),
        request_p50_ms=round(1000 * took[len(took) // 2]) if took else None,
        request_p99_ms=round(1000 * took[int(len(took) * 0.99)]) if took else None,
        beats=beats,
        beats_missing=missing,
    )


def measure(home: Path, count: int) -> dict[str, Any]:
    """A size: join, a first deployment, and a second one while devices are asked."""
    trial = Trial(home, count)
    idle_mb = memory_mb(psutil.Process(trial.state.pid))
    result: dict[str, Any] = {"devices": count, **trial.join()}
    before = cpu_s(trial.processes())
    first = trial.deploy("1.0.0")
    result["first_deployment_s"] = wait(
        lambda: trial.job(first)["numberOfSucceededThings"] == count, f"a deployment to {count}"
    )
    between = cpu_s(trial.processes())
    result["cpu_ms_a_device"] = {
        name: round(1000 * (between[name] - before[name]) / count, 1) for name in sorted(before)
    }
    with asking(trial, result):
        second = trial.deploy("1.0.1")
        result["second_deployment_s"] = wait(
            lambda: trial.job(second)["numberOfSucceededThings"] == count, f"a second deployment to {count}"
        )
    processes = trial.processes()
    result["memory_mb"] = {"cloud_without_devices": idle_mb, **{n: memory_mb(p) for n, p in processes.items()}}
    said = status(trial.state.home) or {}
    result["fetched_mb"], result["counted_mb"] = said["fetched_bytes"] / 1e6, said["counted_bytes"] / 1e6
    began = time.monotonic()
    simulated_fleet.set_count(trial.state, 0, group=None, profile=trial.profile)
    result["left_s"] = round(time.monotonic() - began, 1)
    return result


def limit_reached(profile: Profile, count: int, failing: float, least: int) -> int | None:
    """After how many devices, in the rollout's order, the profile's draw has 5 % failures; None where it never does."""
    failed = 0
    for number in range(1, count + 1):
        failed += Lot(profile, f"sim-{number:04}").chance("share", 0, NAME, "1.0.0") < failing
        if number >= least and failed / number >= LIMIT:
            return number
    return None


def roll_out(home: Path, count: int, failing: float, speed: float) -> dict[str, Any]:
    """A rollout with growth and a limit of 5 % failures."""
    component = {"component": NAME, "share": failing, "exit": {"after_s": 0.1, "output": "failing by the profile"}}
    trial = Trial(home, count, speed, {"seed": SEED, "components": [component]})
    trial.join()
    least = max(1, count // 10)
    growth = {"numberOfNotifiedThings": least}
    rate = {"baseRatePerMinute": max(1, count // 20), "incrementFactor": 2.0, "rateIncreaseCriteria": growth}
    criteria = {
        "failureType": "FAILED",
        "action": "CANCEL",
        "thresholdPercentage": 100 * LIMIT,
        "minNumberOfExecutedThings": least,
    }
    configuration = {
        "jobExecutionsRolloutConfig": {"exponentialRate": rate, "maximumPerMinute": 1000},
        "abortConfig": {"criteriaList": [criteria]},
    }
    began = time.monotonic()
    job = trial.deploy("1.0.0", configuration)

    def is_over() -> bool:
        told = trial.job(job)
        ended = told["numberOfSucceededThings"] + told["numberOfFailedThings"]
        return bool(told["status"] == "CANCELED" or ended == count)

    wait(is_over, f"a rollout to {count}")
    took_s = time.monotonic() - began
    pages = trial.iot.get_paginator("list_job_executions_for_job").paginate(jobId=job)
    queued = Counter(
        round(each["jobExecutionSummary"]["queuedAt"].timestamp())
        for page in pages
        for each in page["executionSummaries"]
    )
    told = trial.job(job)
    return {
        "devices": count,
        "failing": failing,
        "speed": speed,
        "limit_reached_at": limit_reached(trial.profile, count, failing, least),
        "status": told["status"],
        "succeeded": told["numberOfSucceededThings"],
        "failed": told["numberOfFailedThings"],
        "never_notified": count - sum(queued.values()),
        "batches": [queued[moment] for moment in sorted(queued)],
        "real_s": round(took_s, 1),
        "twin_minutes": round(took_s * speed / 60, 1),
    }


def reference(home: Path) -> dict[str, Any]:
    """A device that is a process, for comparison."""
    state = lifecycle.start(home)
    set_own_devices(state, 2, group=GROUP, dialect="lite")
    greengrass = boto3.client("greengrassv2", **state.client_arguments())
    wait(lambda: len(greengrass.list_core_devices()["coreDevices"]) == 2, "two device processes")
    found = processes_where(lambda environment: str(home) in environment.get("TWIN_DEVICE_ROOT", ""))
    return {"device_process_mb": [memory_mb(process) for process in found]}


def table(result: dict[str, Any]) -> str:
    """The sizes as Markdown."""
    lines = [
        "| devices | joined, s | deployment, s | CPU ms a device: cloud, fleet | request p50, p99, ms | lost | "
        "memory of cloud, fleet, MB | fleet, MB a device |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for each in result["sizes"]:
        cpu, memory = each["cpu_ms_a_device"], each["memory_mb"]
        lines.append(
            f"| {each['devices']} | {each['joined_s']} | {each['first_deployment_s']}, {each['second_deployment_s']} | "
            f"{cpu['cloud']}, {cpu['fleet']} | {each['request_p50_ms']}, {each['request_p99_ms']} | "
            f"{each['requests_lost']} of {each['requests']}; {each['beats_missing']} of {each['beats']} beats | "
            f"{memory['cloud']}, {memory['fleet']} | {memory['fleet'] / each['devices']:.2f} |"
        )
    if result["rollouts"]:
        head = (
            "| devices | failing | at the limit after | speed | ends | succeeded | failed | never notified | batches |"
        )
        lines += ["", f"{head} minutes |"]
        lines += ["|--:|--:|--:|--:|---|--:|--:|--:|---|--:|"]
    for each in result["rollouts"]:
        lines.append(
            f"| {each['devices']} | {each['failing']:.0%} | {each['limit_reached_at'] or 'never'} | "
            f"{each['speed']:g} | {each['status']} | {each['succeeded']} | {each['failed']} | "
            f"{each['never_notified']} | {', '.join(map(str, each['batches']))} | {each['twin_minutes']} |"
        )
    return "\n".join(lines) + "\n"


def plot(sizes: list[dict[str, Any]]) -> str:
    """CPU a device over the number of devices, as SVG."""
    width, height, left, low = 480, 240, 50, 200
    widest = max(each["devices"] for each in sizes)
    series = {name: [(e["devices"], e["cpu_ms_a_device"][name]) for e in sizes] for name in ("cloud", "fleet")}
    highest = 1.2 * max(value for points in series.values() for _, value in points)
    drawn = [f'<text x="{left}" y="16">CPU of a deployment, ms a device</text>']
    for colour, (name, points) in zip(("#1b6ca8", "#c2571a"), series.items(), strict=True):
        at = [(left + (width - left - 60) * x / widest, low - (low - 30) * y / highest) for x, y in points]
        drawn.append(
            f'<polyline fill="none" stroke="{colour}" points="{" ".join(f"{x:.0f},{y:.0f}" for x, y in at)}"/>'
        )
        for (x, y), (devices, value) in zip(at, points, strict=True):
            drawn.append(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>')
            drawn.append(f'<text x="{x:.0f}" y="{y - 6:.0f}" text-anchor="middle">{value:g}</text>')
            drawn.append(f'<text x="{x:.0f}" y="{low + 16}" text-anchor="middle">{devices}</text>')
        drawn.append(f'<text x="{at[-1][0] + 12:.0f}" y="{at[-1][1]:.0f}" fill="{colour}">{name}</text>')
    frame = f'<path d="M{left} 30V{low}H{width - 20}" fill="none" stroke="#888"/>'
    style = "<style>text{font:11px sans-serif}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{style}{frame}{"".join(drawn)}</svg>\n'
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[100, 300, 1000], help="default: 100 300 1000")
    parser.add_argument("--rollouts", type=int, default=0, help="devices of the rollouts with 4 %% and 8 %% failing")
    parser.add_argument("--speeds", type=float, nargs="*", default=[60.0], help="of the rollouts; default: 60")
    parser.add_argument("--reference", action="store_true", help="measure a device that is a process, too")
    options = parser.parse_args()
    result: dict[str, Any] = {"cores": os.cpu_count(), "sizes": [], "rollouts": []}
    runs: list[tuple[str, Any]] = [("sizes", lambda home, n=n: measure(home, n)) for n in options.sizes]
    if options.rollouts:
        runs += [
            ("rollouts", lambda home, f=f, s=s: roll_out(home, options.rollouts, f, s))
            for s in options.speeds
            for f in (0.04, 0.08)
        ]
    if options.reference:
        runs.append(("reference", reference))
    for kind, run in runs:
        with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
            home = Path(folder).resolve() / "twin"
            try:
                found = run(home)
            finally:
                lifecycle.stop(home, anyway=True)
        result[kind] = found if kind == "reference" else [*result[kind], found]
        print(json.dumps(found), flush=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    RESULT.with_suffix(".md").write_text(table(result))
    if len(result["sizes"]) > 1:
        RESULT.with_suffix(".svg").write_text(plot(result["sizes"]))
    print(table(result))
    if any(each["requests_lost"] or each["beats_missing"] for each in result["sizes"]):
        sys.exit("messages were lost")
    if any((each["status"] == "CANCELED") != bool(each["limit_reached_at"]) for each in result["rollouts"]):
        sys.exit("a rollout ended otherwise than its draw says")


if __name__ == "__main__":
    main()
