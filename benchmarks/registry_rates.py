"""How long the device registry takes under AWS's rates, interrupted half way and repeated.

    python -m benchmarks.registry_rates [10000] [--speed 1]

Runs the custom resource's own code against a twin that throttles (`up --aws-rates`). Ends with code 1 if a device is
missing, is there twice, or it takes more than CloudFormation's hour.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "constructs"))

import boto3
from botocore.config import Config

from edge_handlers.deadline import Deadline
from edge_handlers.device_registry import DeviceRegistry, Registry
from twin import lifecycle
from twin.state import TwinState

GROUP, TYPE = "registry-all", "registry-type"
HOUR_S = 3600.0


def clients(state: TwinState) -> tuple[Any, Any]:
    """With the retries of a function's clients."""
    config = Config(retries={"mode": "standard", "total_max_attempts": 6}, max_pool_connections=20)
    iot, greengrass = (
        boto3.client(name, config=config, **state.client_arguments()) for name in ("iot", "greengrassv2")
    )
    return iot, greengrass


def members(iot: Any) -> list[str]:
    """Names in the group, as they are listed."""
    pages = iot.get_paginator("list_things_in_thing_group").paginate(thingGroupName=GROUP)
    return [name for page in pages for name in page["things"]]


def measure(home: Path, count: int, speed: float) -> dict[str, Any]:
    """Register so many devices, with an interruption after half of the time that a part takes."""
    state = lifecycle.start(home, speed=speed, aws_rates=True)
    iot, greengrass = clients(state)
    iot.create_thing_group(thingGroupName=GROUP)
    iot.create_thing_type(thingTypeName=TYPE)
    registry = cast(Registry, SimpleNamespace(group=GROUP, groups=(GROUP,), thing_type=TYPE, policy="none"))
    devices = {f"line-{number:05}": GROUP for number in range(count)}
    part_s = max(1.0, count / 200)  # well before half of them at 100 a second
    began = time.monotonic()
    calls = 0
    while len(members(iot)) < count // 2 and calls < 100:
        calls += 1
        DeviceRegistry(iot, greengrass, Deadline(part_s)).reconcile(registry, devices, None)
    half_s = time.monotonic() - began
    there = len(members(iot))
    done = False
    while not done:
        calls += 1
        done = DeviceRegistry(iot, greengrass, Deadline(60.0)).reconcile(registry, devices, None)
    took_s = time.monotonic() - began
    found = members(iot)
    return {
        "devices": count,
        "cores": os.cpu_count(),
        "speed": speed,
        "invocations": calls,
        "interrupted_at": there,
        "half_s": round(half_s, 1),
        "real_s": round(took_s, 1),
        "twin_minutes": round(took_s * speed / 60, 1),
        "missing": len(devices.keys() - set(found)),
        "twice": len(found) - len(set(found)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="devices (default: %(default)s)")
    parser.add_argument("--speed", type=float, default=1.0, help="of the twin (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="registry-") as folder:
        home = Path(folder).resolve() / "twin"
        try:
            result = measure(home, options.count, options.speed)
        finally:
            lifecycle.stop(home, anyway=True)
    print(json.dumps(result, indent=2))
    if result["missing"] or result["twice"] or result["twin_minutes"] * 60 > HOUR_S:
        sys.exit("devices are missing, or there twice, or it took more than an hour")


if __name__ == "__main__":
    main()
