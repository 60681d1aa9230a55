"""A component of the same device asks a model on local topics, the line cut for half of it; beside the way by IoT Core.

    .venv/bin/python benchmarks/local_requests.py [--requests 10000] [--json benchmarks/local_requests.json]

The app is deployed to a twin of its own. A component (asking_component.py) asks the digits one request after the other;
when it is through with half of them it waits, and the whole cloud is killed. Before that the same model is asked over
the twin's IoT Core. Ends with 1 if a local request is lost or out of order, or its p50 is above half of that way's.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "constructs"), str(ROOT / "edge_assets" / "inference")]

import boto3

from benchmarks.deployed_twin import NAMES, REQUEST, RESPONSE, DeployedTwin
from benchmarks.waiting import wait_for

RATIO = 0.5
ASKER = "com.example.Asker"
GROUP = "askers"
LIMIT_S = 600.0


def recipe(report: Path, half: Path, requests: int) -> dict[str, Any]:
    """The asking component's recipe: it may publish requests and hear answers, and nothing else."""
    access = {
        f"{ASKER}:{operation}": {"operations": [f"aws.greengrass#{operation}"], "resources": [topic]}
        for operation, topic in (("PublishToTopic", REQUEST), ("SubscribeToTopic", RESPONSE))
    }
    script = f"exec '{sys.executable}' '{ROOT / 'benchmarks' / 'asking_component.py'}' {REQUEST} {RESPONSE} {requests}"
    return {
        "RecipeFormatVersion": "2020-01-25",
        "ComponentName": ASKER,
        "ComponentVersion": "1.0.0",
        "ComponentConfiguration": {"DefaultConfiguration": {"accessControl": {"aws.greengrass.ipc.pubsub": access}}},
        "Manifests": [
            {
                "Platform": {"os": "linux", "runtime": "*"},
                "Lifecycle": {"run": {"Script": f"{script} --report {report} --half {half}"}},
                "Artifacts": [],
            }
        ],
    }


def deploy_asker(twin: DeployedTwin, content: dict[str, Any]) -> None:
    """Bring the asking component to the device by a group of its own."""
    iot, greengrass = (boto3.client(name, **twin.state.client_arguments()) for name in ("iot", "greengrassv2"))
    greengrass.create_component_version(inlineRecipe=json.dumps(content).encode())
    target = iot.create_thing_group(thingGroupName=GROUP)["thingGroupArn"]
    iot.add_thing_to_thing_group(thingGroupName=GROUP, thingName=NAMES.edge_server)
    greengrass.create_deployment(targetArn=target, components={ASKER: {"componentVersion": "1.0.0"}})


def over_the_cloud(twin: DeployedTwin, requests: int) -> list[float]:
    """How long requests over the twin's IoT Core take, ms."""
    took_ms = []
    with twin.operator() as operator:
        for number in range(requests + 20):
            started = time.perf_counter()
            operator.request(REQUEST, {"request_id": f"cloud-{number}", "index": number % 300}, RESPONSE)
            took_ms.append((time.perf_counter() - started) * 1000)
    return took_ms[20:]


def measure(folder: Path, requests: int) -> dict[str, Any]:
    """Deploy, ask both ways, cut the line in the middle."""
    report, half = folder / "report.json", folder / "half"
    with DeployedTwin(folder) as twin:
        twin.bootstrap()
        twin.deploy.deploy()
        cloud_ms = over_the_cloud(twin, requests // 10)
        deploy_asker(twin, recipe(report, half, requests))
        wait_for(half.exists, "half of the local requests", LIMIT_S)
        twin.kill_cloud()
        half.unlink()
        wait_for(report.exists, "the other half", LIMIT_S)
        local = json.loads(report.read_text())
    local_ms = local.pop("took_ms")
    before, after = local_ms[: requests // 2], local_ms[requests // 2 :]
    p50 = {
        "over IoT Core": statistics.median(cloud_ms),
        "local": statistics.median(local_ms),
        "local, with the line": statistics.median(before),
        "local, line cut": statistics.median(after),
    }
    ratio = p50["local"] / p50["over IoT Core"]
    whole = local["answered"] == requests and not local["lost"] and not local["out_of_order"]
    return {
        "requests": requests, **local, "asked over IoT Core": len(cloud_ms), "asked with the line cut": len(after),
        "p50_ms": {name: round(value, 2) for name, value in p50.items()}, "ratio": round(ratio, 3), "at most": RATIO,
        "holds": whole and ratio <= RATIO,
    }  # fmt: skip


def main() -> int:
    """Measure, print, and say whether it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000, help="by local topics (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ew-") as scratch:
        found = measure(Path(scratch), options.requests)
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(f"{text}\n")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
