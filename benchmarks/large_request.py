"""Memory of a component whose agent's client sends one large tensor among small ones: it must not stay.

    .venv/bin/python benchmarks/large_request.py [--megabytes 30] [--json benchmarks/large_request.json]

The running component serves the Edge Manager agent's socket; a client in a process of its own asks a model with a free
batch. Prints resident memory along the way, and ends with 1 if at rest again it is above 1.2 times the start.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "constructs"), str(ROOT / "edge_assets" / "inference")]

import numpy as np
import psutil

from tests.edge_agent.agent_models import doubler
from tests.edge_agent.conftest import PROTO, Client, tensor
from tests.edge_agent.test_agent_process import running, signed

LIMIT = 1.2
SMALL = 50
REST_S = 5.0


def main() -> int:
    """Ask, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=30, help="of the large tensor (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["MALLOC_ARENA_MAX"] = "2"  # as run.sh has it
    curve: list[tuple[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="ew-") as scratch:
        folder, stubs = Path(scratch), Path(scratch) / "stubs"
        stubs.mkdir()
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={stubs}"]
        subprocess.run([*command, f"--grpc_python_out={stubs}", "agent.proto"], check=True)
        with running(folder) as component, closing(Client(stubs, folder / "a.sock")) as client:
            process = psutil.Process(component.process.pid)

            def note(what: str) -> float:
                curve.append((what, round(process.memory_info().rss / 1e6, 1)))
                print(f"{what:<32}{curve[-1][1]:>8.1f} MB", flush=True)
                return curve[-1][1]

            def ask(rows: int, times: int) -> None:
                values = np.ones((rows, 3), np.float32)
                for _ in range(times):
                    (answer,) = client.predict("doubler", tensor(values))
                    assert answer.shape == (rows, 3)
                    assert answer.flat[-1] == 2

            note("started")
            client.call("LoadModel", url=signed(doubler(folder / "doubler")), name="doubler")
            ask(1, SMALL)
            start = note(f"{SMALL} small requests")
            ask(options.megabytes * 1_000_000 // 12, 1)
            note(f"one of {options.megabytes} MB")
            for number in range(4):
                ask(1, SMALL)
                note(f"{SMALL} small requests, {number + 1}")
            time.sleep(REST_S)
            end = note(f"at rest for {REST_S:.0f} s")
    factor = end / start
    print(f"{factor:.2f} of the start, at most {LIMIT}")
    if options.json:
        options.json.write_text(json.dumps({"curve": curve, "factor": round(factor, 2)}, indent=1) + "\n")
    return int(factor > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
