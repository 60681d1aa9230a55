"""How long the device registry takes under AWS's rates, killed half way and repeated.

    python -m benchmarks.registry_rates [10000] [--speed 60]

Runs the custom resource's own code against a twin that throttles (`up --aws-rates`): once in a process that is killed
with SIGKILL when half of the devices are there, as a function is at its end, then again from the start. Ends with code
1 if a device is missing, is there twice, or it takes more than CloudFormation's hour.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "constructs"))

import boto3
from botocore.config import Config

from edge_handlers.device_registry import DeviceRegistry, Registry
from edge_handlers.service_client import Deadline
from twin import lifecycle
from twin.state import TwinState, load_state

GROUP, TYPE = "registry-all", "registry-type"
HOUR_S = 3600.0
LIMIT_S = 3600.0


def clients(state: TwinState) -> tuple[Any, Any]:
    """With the retries of a function's clients."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 6}, max_pool_connections=20)
    iot, greengrass = (
        boto3.client(name, config=config, **state.client_arguments()) for name in ("iot", "greengrassv2")
    )
    return iot, greengrass


def listed(iot: Any, operation: str, key: str, **arguments: Any) -> list[Any]:
    """All pages of a listing; its own calls are throttled, too, so it asks for large pages."""
    pages = iot.get_paginator(operation).paginate(maxResults=250, **arguments)
    return [each for page in pages for each in page[key]]


def register(home: Path, count: int, limit_s: float) -> bool:
    """One invocation of the registry's function; whether it is done."""
    state = load_state(home)
    if state is None:
        raise RuntimeError(f"a twin must run in {home}")
    registry = cast(Registry, SimpleNamespace(group=GROUP, groups=(GROUP,), thing_type=TYPE, policy="none"))
    devices = {f"line-{number:05}": GROUP for number in range(count)}
    return DeviceRegistry(*clients(state), Deadline(limit_s)).reconcile(registry, devices, None)


def kill_half_way(home: Path, count: int, iot: Any) -> int:
    """Let a process register, and kill it when half of the devices are there; how many are."""
    command = [sys.executable, "-m", "benchmarks.registry_rates", str(count), "--register", str(home)]
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1])
    began, there = time.monotonic(), 0
    try:
        while there < count // 2:
            if process.poll() is not None or time.monotonic() - began > LIMIT_S:
                raise RuntimeError(f"half of {count} devices must come, got {there}, exit status {process.poll()}")
            time.sleep(max(0.2, count / 5000))  # to look is work for the twin, too
            there = len(listed(iot, "list_things_in_thing_group", "things", thingGroupName=GROUP))
    finally:
        process.kill()
        process.wait()
    return there


def measure(home: Path, count: int, speed: float) -> dict[str, Any]:
    """Register so many devices, with a kill half way."""
    state = lifecycle.start(home, speed=speed, aws_rates=True)
    iot, _greengrass = clients(state)
    iot.create_thing_group(thingGroupName=GROUP)
    iot.create_thing_type(thingTypeName=TYPE)
    began = time.monotonic()
    there = kill_half_way(home, count, iot)
    half_s = time.monotonic() - began
    calls, done = 1, False
    while not done and time.monotonic() - began < LIMIT_S:
        calls += 1
        done = register(home, count, 60.0)
    took_s = time.monotonic() - began
    wanted = {f"line-{number:05}" for number in range(count)}
    things = Counter(each["thingName"] for each in listed(iot, "list_things", "things"))
    members = Counter(listed(iot, "list_things_in_thing_group", "things", thingGroupName=GROUP))
    return {
        "devices": count,
        "cores": os.cpu_count(),
        "speed": speed,
        "invocations": calls,
        "killed_at": there,
        "half_s": round(half_s, 1),
        "real_s": round(took_s, 1),
        "twin_minutes": round(took_s * speed / 60, 1),
        "missing": len(wanted - things.keys()) + len(wanted - members.keys()),
        "twice": sum(number > 1 for found in (things, members) for number in found.values()),
        "others": len(things.keys() - wanted) + len(members.keys() - wanted),
    }


def main() -> None:
    """Measure and print; with `--register FOLDER` be the process that is killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="devices (default: %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="of the twin (default: %(default)s)")
    parser.add_argument("--register", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.register:
        register(options.register, options.count, LIMIT_S)
        return
    with tempfile.TemporaryDirectory(prefix="registry-") as folder:
        home = Path(folder).resolve() / "twin"
        try:
            result = measure(home, options.count, options.speed)
        finally:
            lifecycle.stop(home, anyway=True)
    print(json.dumps(result, indent=2))
    if result["missing"] or result["twice"] or result["others"] or result["twin_minutes"] * 60 > HOUR_S:
        sys.exit("devices are missing, there twice or nobody's, or it took more than an hour")


if __name__ == "__main__":
    main()
