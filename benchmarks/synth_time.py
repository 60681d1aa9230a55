"""How long a synth of all stacks and the policy gate takes, against an app with one bucket in the same environment.

    .venv/bin/python benchmarks/synth_time.py [--runs 5]

The runs of all apps take turns, so that a busy machine slows all of them down, and each is compared with the one bucket
of its own turn. CPU counts Python and Node together.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from config.loader import stage_names
from tools.node import settle_jsii

ONE_BUCKET = """
import aws_cdk as cdk
from aws_cdk import aws_s3 as s3
app = cdk.App(analytics_reporting=False)
s3.Bucket(cdk.Stack(app, "Stack"), "Bucket")
app.synth()
"""
LIMIT_S = 300
BASELINE = "one bucket"
#: By default CDK checks templates against CloudFormation's schemas; the app leaves that to its tests.
UNCHECKED = "one bucket, no schema check"
CHECKED = "twin, with schema check"


def main() -> None:
    """Run the apps in turn and print the medians, and those of the ratios within a turn."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="runs of each app (default: %(default)s)")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        one_bucket = Path(folder) / "one_bucket.py"
        one_bucket.write_text(ONE_BUCKET)
        apps = {
            BASELINE: (one_bucket, {}),
            UNCHECKED: (one_bucket, {"CDK_VALIDATION": "false"}),
            **{name: (ROOT / "app.py", _context(stage=name)) for name in stage_names()},
            CHECKED: (ROOT / "app.py", _context(stage="twin", validate="true")),
        }
        seconds: dict[str, list[float]] = {name: [] for name in apps}
        used: dict[str, list[float]] = {name: [] for name in apps}
        for turn in range(runs + 1):
            for name, (script, variables) in apps.items():
                taken, cpu = _synth(script, Path(folder) / name, variables)
                if turn:  # the first turn fills caches
                    seconds[name].append(taken)
                    used[name].append(cpu)
    for name, values in seconds.items():
        print(
            f"{name:28} median {statistics.median(values):5.2f} s  ({min(values):.2f}-{max(values):.2f})  "
            f"{_times(values, seconds[BASELINE])} x one bucket,  "
            f"CPU {statistics.median(used[name]):5.2f} s  {_times(used[name], used[BASELINE])} x"
        )


def _times(values: list[float], baseline: list[float]) -> str:
    return f"{statistics.median(value / other for value, other in zip(values, baseline, strict=True)):.2f}"


def _context(**values: str) -> dict[str, str]:
    return {"CDK_CONTEXT_JSON": json.dumps(values)}


def _synth(script: Path, out: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    settle_jsii(os.environ)
    environment = {**os.environ, "CDK_OUTDIR": str(out), **variables}
    before, started = _cpu(), time.perf_counter()
    subprocess.run([sys.executable, str(script)], cwd=ROOT, env=environment, check=True, timeout=LIMIT_S)
    return time.perf_counter() - started, _cpu() - before


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
