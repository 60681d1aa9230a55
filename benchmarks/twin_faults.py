"""Faults of a deployed twin, all of it as the CDK app deploys it: what is lost, hangs or grows.

    .venv/bin/python benchmarks/twin_faults.py [--only NAME] [--kills 50] [--away 60] [--messages 1000] [--seed 1]

The report goes to standard output as JSON, progress to standard error; the exit code is 1 when a fault breaks its rule.
A full disk needs root (a tmpfs), a jumping clock libfaketime (apt install libfaketime, or --faketime FILE).
"""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.deployed_twin import NAMES, DeployedTwin, remove
from benchmarks.edge_outages import FAKETIME
from benchmarks.twin_fault_clock import clock_jumps
from benchmarks.twin_fault_kills import kills
from benchmarks.twin_fault_messages import malformed
from benchmarks.twin_fault_models import bad_models
from benchmarks.twin_fault_outages import broker_away, disk_full
from benchmarks.twin_fault_s3 import s3_refuses

Report = dict[str, Any]
Fault = Callable[[DeployedTwin, Path], Report]
SERVING = "serving = { captureBelow = 0.6 }"


def configure(app: Path, watched: Path) -> None:
    """Let the stage watch a folder, capture every prediction, and say often how it is."""
    file = app / "config" / "twin.toml"
    text = file.read_text()
    if SERVING not in text:
        raise ValueError(f"{file} must hold {SERVING!r} for this benchmark to change it")
    wanted = f'serving = {{ captureShare = 1, WatchDirectory = "{watched}" }}'
    file.write_text(f"{text.replace(SERVING, wanted)}\n[configuration.all.inference]\nheartbeatSeconds = 2\n")


def bring_about(faults: dict[str, Fault], folder: Path) -> Report:
    """Deploy, then one fault after the other; nothing runs when this returns."""
    watched = folder / "watched"
    report: Report = {}
    twin = DeployedTwin(folder, auth=True, extensions=("benchmarks.refusing_s3",))
    watched.mkdir()
    configure(twin.app, watched)
    with twin:
        tell("deploying …")
        twin.bootstrap()
        twin.deploy.deploy()
        twin.deploy.wait_for_device(NAMES.edge_server, timeout_s=180)
        with twin.operator() as operator:
            twin.wait_until_served(operator)
        # Some of its memory comes with the first work of a kind, such as S3's client with a capture.
        s3_refuses(twin, "warm")
        twin.warm_mb = twin.rss_mb()["component"]
        for name, fault in faults.items():
            tell(f"{name} …")
            started = time.monotonic()
            report[name] = fault(twin, watched)
            report[name]["seconds"] = round(time.monotonic() - started, 1)
            tell(f"{name}: {report[name].get('holds', 'skipped')}")
    return report


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def main(
    only: str = typer.Option("", help="One fault, or some separated by commas (default: all)."),
    kill_count: int = typer.Option(50, "--kills", min=1),
    away: float = typer.Option(60, min=5, help="Seconds without a broker."),
    messages: int = typer.Option(1000, min=1, help="Malformed messages."),
    faketime: Path = typer.Option(FAKETIME, envvar="FAKETIME_LIBRARY", help="The library that fakes the clock."),  # noqa: B008 - typer's way
    seed: int = typer.Option(1, help="Of the kills' moments and of the messages."),
    keep: bool = typer.Option(False, help="Keep the folder of the run, with its logs."),
) -> None:
    """Deploy a twin, bring the faults about, and print the report."""
    faults: dict[str, Fault] = {
        "kill -9 at random": lambda twin, watched: kills(twin, watched, kill_count, seed),
        "broker away": lambda twin, watched: broker_away(twin, watched, away),
        "disk full": lambda twin, watched: (
            {"skipped": "a small disk needs root"} if os.geteuid() else disk_full(twin, watched)
        ),
        "S3 refusing": lambda twin, _: s3_refuses(twin),
        "clock jumping": lambda twin, _: clock_jumps(twin, faketime),
        "bad model update": lambda twin, _: bad_models(twin),
        "malformed messages": lambda twin, _: malformed(twin, messages, seed),
    }
    wanted = [name.strip() for name in only.split(",") if name.strip()] or list(faults)
    if unknown := [name for name in wanted if name not in faults]:
        raise typer.BadParameter(f"--only must be of {', '.join(faults)}, got {', '.join(unknown)}")
    # As Ctrl-C: the twin is ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="edgewright-"))
    try:
        report = bring_about({name: faults[name] for name in wanted}, folder)
    finally:
        if keep:
            tell(f"kept: {folder}")
        else:
            remove(folder)
    print(json.dumps(report, indent=1))
    raise typer.Exit(int(any(part.get("holds") is False for part in report.values())))


if __name__ == "__main__":
    typer.run(main)
