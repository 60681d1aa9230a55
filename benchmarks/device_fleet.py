"""Measure a deployment to N core devices of one twin: time, memory, and what is left after `down`.

Run: `python benchmarks/device_fleet.py [25]`, with the number of devices. The component is a shell script: what is
measured is the devices; a component's own memory comes on top, N times. Result: `benchmarks/device_fleet.json`.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from twin import lifecycle
from twin.devices.membership import set_own_devices
from twin.process import processes_where
from twin.state import TwinState
from twin.status import take_status

RESULT = Path(__file__).with_suffix(".json")
NAME, GROUP = "com.example.Light", "ring"
LIMIT_S = 300.0


def recipe() -> str:
    """A component that only waits."""
    manifest = {"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": "sleep 3600"}, "Artifacts": []}
    head = {"RecipeFormatVersion": "2020-01-25", "ComponentName": NAME, "ComponentVersion": "1.0.0"}
    return json.dumps({**head, "Manifests": [manifest]})


def wait(condition: Any) -> float:
    """Wait until a condition holds; returns seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > LIMIT_S:
            raise TimeoutError(f"not within {LIMIT_S} s")
        time.sleep(0.1)
    return round(time.monotonic() - began, 1)


def of_this_twin(home: Path) -> list[psutil.Process]:
    """Every process with the state folder in its environment."""
    return processes_where(lambda environment: any(str(home) in value for value in environment.values()))


def memory_mb(processes: list[psutil.Process]) -> float:
    """Proportional set size: pages that processes share are counted once."""
    return round(sum(process.memory_full_info().pss for process in processes) / 1e6, 1)


def measure(state: TwinState, count: int) -> dict[str, Any]:
    """Let devices join, deploy to all of them, and look at their processes."""
    arguments = state.client_arguments()
    greengrass, iot = boto3.client("greengrassv2", **arguments), boto3.client("iot", **arguments)
    began = time.monotonic()
    set_own_devices(state, count, group=GROUP, dialect="lite")
    joined_s = round(time.monotonic() - began, 1)
    wait(lambda: len(greengrass.list_core_devices(maxResults=100)["coreDevices"]) == count)
    online_s = round(time.monotonic() - began, 1)
    greengrass.create_component_version(inlineRecipe=recipe().encode())
    target = iot.describe_thing_group(thingGroupName=GROUP)["thingGroupArn"]
    job = greengrass.create_deployment(targetArn=target, components={NAME: {"componentVersion": "1.0.0"}})["iotJobId"]
    deployed_s = wait(
        lambda: iot.describe_job(jobId=job)["job"]["jobProcessDetails"]["numberOfSucceededThings"] == count
    )
    processes = of_this_twin(state.home)
    return {
        "devices": count,
        "cores": os.cpu_count(),
        "joined_s": joined_s,
        "online_s": online_s,
        "deployed_to_all_s": deployed_s,
        "processes": len(processes),
        "memory_mb": memory_mb(processes),
        "cloud_memory_mb": memory_mb([psutil.Process(state.pid)]),
        "running": sum(device.pid is not None for device in take_status(state).devices),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("count", type=int, nargs="?", default=25, help="core devices (default: %(default)s)")
    count = parser.parse_args().count
    with tempfile.TemporaryDirectory(prefix="fleet-") as folder:
        home = Path(folder).resolve() / "twin"
        try:
            result = measure(lifecycle.start(home), count)
        finally:
            began = time.monotonic()
            lifecycle.stop(home)
            stopped_s = round(time.monotonic() - began, 1)
        result |= {"stopped_s": stopped_s, "processes_left": len(of_this_twin(home))}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
