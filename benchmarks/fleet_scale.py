"""What a larger fleet costs at synth: resources of the templates, and seconds, for 1, 100 and 10,000 devices.

    .venv/bin/python benchmarks/fleet_scale.py [--runs 5]

Runs take turns, so that a busy machine slows all sizes down alike.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "constructs")]
SIZES = (1, 100, 10_000)
STAGE = "scale"
LIMIT_S = 300


def main() -> None:
    """Print a Markdown table; with `--synth FOLDER` be one of the measured processes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=5, help="synths of each size (default: %(default)s)")
    parser.add_argument("--synth", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.synth:
        synth(arguments.synth)
        return
    with tempfile.TemporaryDirectory() as folder:
        places = {size: prepare(Path(folder) / str(size), size) for size in SIZES}
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        for turn in range(arguments.runs + 1):
            for size, place in places.items():
                taken = measure(place)
                if turn:  # the first turn fills caches
                    seconds[size].append(taken)
        base = statistics.median(seconds[SIZES[0]])
        print("| devices | resources | list, bytes | synth: median s | min | max | against 1 device |")
        print("|---|---|---|---|---|---|---|")
        for size, place in places.items():
            median = statistics.median(seconds[size])
            spread = f"{min(seconds[size]):.2f} | {max(seconds[size]):.2f}"
            print(
                f"| {size:,} | {resources(place)} | {listed(place):,} | {median:.2f} | {spread} | {median / base:.3f} |"
            )


def prepare(place: Path, size: int) -> Path:
    """Write a stage with a list of so many devices."""
    place.mkdir(parents=True)
    rings = ["canary", "early", *["all"] * 8]
    rows = [f"line-{number},{rings[number % len(rings)]}" for number in range(size)]
    (place / "devices.csv").write_text("device,ring\n" + "\n".join(rows) + "\n")
    text = (ROOT / "config" / "twin.toml").read_text() + '\n[fleet]\nfile = "devices.csv"\n'
    (place / f"{STAGE}.toml").write_text(text)
    return place


def measure(place: Path) -> float:
    """Synthesise in a process of its own; returns its seconds from start to end."""
    shutil.rmtree(place / "out", ignore_errors=True)
    started = time.perf_counter()
    subprocess.run([sys.executable, __file__, "--synth", str(place)], check=True, timeout=LIMIT_S, cwd=ROOT)
    return time.perf_counter() - started


def synth(place: Path) -> None:
    """Do what app.py does, for the stage in this folder."""
    from tools.node import settle_jsii

    settle_jsii(os.environ)
    from config.loader import load_stage, read_context
    from edge_constructs.synth import PolicyGate, new_app
    from stacks.edgewright import define_stacks

    app = new_app(read_context(), outdir=place / "out")
    gate = PolicyGate(app)
    define_stacks(app, load_stage(STAGE, place))
    gate.synth()


def resources(place: Path) -> int:
    """Resources of all templates."""
    return sum(len(json.loads(file.read_text())["Resources"]) for file in (place / "out").glob("*.template.json"))


def listed(place: Path) -> int:
    """Size of the list that travels as an asset, bytes."""
    (file,) = (place / "out" / "artifacts" / "devices").glob("*.json")
    return file.stat().st_size


if __name__ == "__main__":
    main()
