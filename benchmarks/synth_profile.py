"""Where the time of a synth goes: phases, calls into jsii's Node process, and each policy pack by leaving it out.

    .venv/bin/python benchmarks/synth_profile.py [--stage dev] [--runs 5]

Medians. CPU seconds count Python and Node together, and suffer less from a busy machine than the clock does.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tools.node import settle_jsii

LIMIT_S = 300
#: Runs the app as `python app.py` does, with some packs, and prints what took how long.
MEASURED = """
import json, os, sys, time
begin = time.perf_counter()
sys.argv, sys.path[:0] = ["app.py"], [os.getcwd()]
from tools.node import node_binary
from jsii._kernel.providers.process import _NodeProcess
calls, waited, send = {}, [0.0], _NodeProcess.send

def counted(self, request, response):
    started = time.perf_counter()
    try:
        return send(self, request, response)
    finally:
        name = type(request).__name__.removesuffix("Request").strip("_")
        calls[name] = calls.get(name, 0) + 1
        waited[0] += time.perf_counter() - started

_NodeProcess.send = counted
import app
from edge_constructs import synth
packs = os.environ["PACKS"].split(",")
synth._PACKS = tuple(pack for pack in synth._PACKS if pack.__name__ in packs)
marks = {"import": time.perf_counter() - begin}
app.KEPT.keep_in(app.FILE)
scope = app.new_app(app.read_context())
gate = app.PolicyGate(scope)
before, waited[0] = time.perf_counter(), 0.0
app.define_stacks(scope, app.load_stage(os.environ["STAGE"]))
marks["construct"] = time.perf_counter() - before
marks["construct, waiting for Node"] = waited[0]
marks["calls into Node"] = sum(calls.values())
before = time.perf_counter()
gate.synth()
marks["synth and packs"] = time.perf_counter() - before
marks["all but start and end"] = time.perf_counter() - begin
print(json.dumps(marks))
"""
PACKS = ("AwsSolutionsChecks", "NIST80053R5Checks", "ServerlessChecks", "EdgeChecks")


def main() -> None:
    """Run the variants in turn and print medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", default="dev", help="stage to synthesise (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each variant (default: %(default)s)")
    options = parser.parse_args()
    variants = {
        "all packs": PACKS,
        **{f"without {pack}": tuple(other for other in PACKS if other != pack) for pack in PACKS},
        "no packs": (),
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory(prefix="edgewright-profile-") as folder:
        for turn in range(options.runs + 1):
            for name, packs in variants.items():
                measured = _run(options.stage, packs, Path(folder) / "out")
                if turn:  # the first turn fills caches
                    runs[name].append(measured)
    medians = {
        name: {key: statistics.median(each[key] for each in found) for key in found[0]} for name, found in runs.items()
    }
    for key, value in medians["all packs"].items():
        print(f"{key:28} {value:8.2f}")
    full = medians["all packs"]
    for name, median in medians.items():
        saved = f"{full['CPU'] - median['CPU']:5.2f} s CPU and {full['wall'] - median['wall']:5.2f} s saved"
        print(f"{name:28} wall {median['wall']:.2f} s, CPU {median['CPU']:.2f} s; {saved}")


def _run(stage: str, packs: tuple[str, ...], out: Path) -> dict[str, float]:
    settle_jsii(os.environ)
    environment: Mapping[str, str] = {
        **os.environ,
        "CDK_OUTDIR": str(out),
        "STAGE": stage,
        "PACKS": ",".join(packs),
    }
    before, started = _cpu(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
    )
    wall, used = time.perf_counter() - started, _cpu() - before
    if done.returncode:
        raise SystemExit(f"stage {stage} cannot be synthesised:\n{done.stderr.strip()}")
    marks: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    start_and_end = wall - marks.pop("all but start and end")
    return {**marks, "start and end of processes": start_and_end, "wall": wall, "CPU": used}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
