"""Deploy, requests a second, destroy and a whole demo of one checkout against another one, both set up before.

    git worktree add ../base COMMIT && make -C ../base setup
    .venv/bin/python benchmarks/compare_commits.py ../base . [--runs 5] [--requests 5000]

The checkouts take turns, each run on a twin of its own and with its own code and environment, so that a busy machine
slows both down. The ratios are of the medians; the machine should do nothing else.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import typer

LIMIT_S = 1200
#: Beside each other: the device has always something to do.
IN_FLIGHT = 16
#: Each figure, and the least or the most that its ratio to the base may be.
TARGETS = {
    "deploy_s": ("at most", 1.0),
    "answers_per_s": ("at least", 0.97),
    "destroy_s": ("at most", 1.0),
    "demo_s": ("at most", 1.0),
}


def measure(folder: Path, requests: int) -> dict[str, float]:
    """Measure the checkout that is the working directory; its modules alone are imported."""
    sys.path[0] = str(Path.cwd())
    sys.path.insert(0, str(Path.cwd() / "constructs"))
    from config.names import Names
    from tools.offline_deploy import OfflineDeploy
    from twin import lifecycle
    from twin.operator import OperatorClient

    names, home = Names("twin"), folder / "twin"
    state = lifecycle.start(home)
    try:
        stage = OfflineDeploy(environment=state.environment(), out=folder / "out")
        stage.synth()
        stage.bootstrap()
        deploy_s = stage.deploy()
        stage.wait_for_device(names.edge_server, timeout_s=180)
        topic, response = names.request_topic("digits"), names.response_topic("digits")
        with OperatorClient(state) as operator, operator.listen(response) as heard:

            def answered(count: int) -> float:
                started, sent = time.monotonic(), 0
                for received in range(count):
                    while sent < min(count, received + IN_FLIGHT):
                        operator.publish(topic, json.dumps({"request_id": f"r{sent}", "index": sent % 360}).encode())
                        sent += 1
                    heard.get(timeout=60)
                return count / (time.monotonic() - started)

            answered(requests // 10)
            answers_per_s = answered(requests)
        return {"deploy_s": deploy_s, "answers_per_s": answers_per_s, "destroy_s": stage.destroy()}
    finally:
        lifecycle.stop(home)


def measured(checkout: Path, requests: int) -> dict[str, float]:
    """Measure a checkout in a process of its own.

    Raises:
        RuntimeError: It fails; the text has the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="edgewright-bench-") as folder:
        command = [str(checkout / ".venv" / "bin" / "python"), str(Path(__file__).resolve()), "--measure", folder]
        environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
        said = _run([*command, "--requests", str(requests), ".", "."], checkout, environment)
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    started = time.monotonic()
    _run(["make", "demo"], checkout, environment)
    return {**found, "demo_s": time.monotonic() - started}


def _run(command: list[str], checkout: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{checkout} could not be measured:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def main(
    base: Path = typer.Argument(help="The checkout to compare with."),  # noqa: B008 - typer's way
    checkout: Path = typer.Argument(help="The checkout to measure."),  # noqa: B008
    runs: int = typer.Option(3, min=1, help="Runs of each."),
    requests: int = typer.Option(3000, min=100, help="Requests of a run."),
    measure_in: Path | None = typer.Option(None, "--measure", hidden=True),  # noqa: B008
) -> None:
    """Print each run and the ratios of the medians as a table; end with 1 where one misses its target.

    A run that fails or is interrupted ends them with 1, too, and those before it are still compared.
    """
    if measure_in is not None:
        typer.echo(json.dumps(measure(measure_in, requests)))
        return
    checkouts = {"base": base.resolve(), "checkout": checkout.resolve()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    missed = False
    try:
        for turn in range(runs):
            for name, folder in checkouts.items():
                found[name].append(measured(folder, requests))
                shown = ", ".join(f"{what} {value:.1f}" for what, value in found[name][-1].items())
                typer.echo(f"{turn + 1} {name}: {shown}", err=True)
    except (KeyboardInterrupt, RuntimeError, subprocess.TimeoutExpired) as exc:
        typer.echo(f"ended early, what is there counts: {str(exc) or 'interrupted'}", err=True)
        if not all(found.values()):
            raise typer.Exit(1) from exc
        missed = True
    typer.echo("| what | base | checkout | ratio | target |\n|---|---|---|---|---|")
    for what, (kind, target) in TARGETS.items():
        before, after = (statistics.median(run[what] for run in found[name]) for name in checkouts)
        ratio = after / before
        missed |= ratio > target if kind == "at most" else ratio < target
        typer.echo(f"| {what} | {before:.1f} | {after:.1f} | {ratio:.2f} x | {kind} {target} |")
    raise typer.Exit(int(missed))


if __name__ == "__main__":
    typer.run(main)
