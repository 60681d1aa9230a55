"""Full offline deploy and destroy of all stacks, beside a one-bucket app on the same twin: medians and ratios.

Rerun with `.venv/bin/python benchmarks/offline_deploy_time.py --runs 5`.
"""

import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.offline_deploy import OfflineDeploy
from twin import lifecycle

ONE_BUCKET = """
import aws_cdk as cdk
from aws_cdk import aws_s3 as s3

app = cdk.App()
s3.Bucket(cdk.Stack(app, "OneBucket", env=cdk.Environment(account="000000000000", region="us-east-1")), "Bucket",
          removal_policy=cdk.RemovalPolicy.DESTROY)
app.synth()
"""


def main(runs: int = typer.Option(5, min=1, help="Deploys and destroys of each app.")) -> None:
    """Print a Markdown table: seconds (median, minimum, maximum) and the ratio to the one-bucket app."""
    folder = Path(tempfile.mkdtemp(prefix="edgewright-bench-"))
    bare = folder / "one_bucket"
    bare.mkdir()
    (bare / "app.py").write_text(ONE_BUCKET)
    home = folder / "twin"
    state = lifecycle.start(home)
    try:
        ours = OfflineDeploy(environment=state.environment(), out=folder / "ours")
        baseline = replace(ours, out=folder / "baseline", app=bare)
        for app in (ours, baseline):
            app.synth()
        ours.bootstrap()
        times: dict[str, list[float]] = {}
        for run in range(runs):
            print(f"run {run + 1} of {runs}", file=sys.stderr)
            for name, app in (("one bucket", baseline), ("all stacks", ours)):
                times.setdefault(f"{name}: deploy", []).append(app.deploy())
                times.setdefault(f"{name}: destroy", []).append(app.destroy())
    finally:
        lifecycle.stop(home)
        shutil.rmtree(folder, ignore_errors=True)
    print("| what | median s | min | max | times one bucket |\n|---|---|---|---|---|")
    for what, seconds in times.items():
        base = statistics.median(times[what.replace("all stacks", "one bucket")])
        median = statistics.median(seconds)
        print(f"| {what} | {median:.1f} | {min(seconds):.1f} | {max(seconds):.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    typer.run(main)
