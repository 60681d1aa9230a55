"""Time of `make setup && make setup-dev` from nothing: one commit against another, in turn, with empty caches.

    .venv/bin/python benchmarks/set_up_time.py 346f8f0 HEAD [--runs 3]

Each run is a new clone with a HOME of its own, so no cache and no environment of an earlier one is there. A commit
without an installer of its own is given the newest pip between its two targets, which is not counted: its lock needs
one. The machine should do nothing else.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900
#: The ratio of the medians that the new commit must not exceed.
TARGET = 0.35


def set_up_s(commit: str, folder: Path) -> float:
    """Clone the commit into the folder and set it up.

    Returns:
        The seconds of both targets.

    Raises:
        RuntimeError: a command failed; the message has the end of its output.
    """
    clone, home = folder / "clone", folder / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", "--detach", commit], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "npm_", "XDG_"))}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(folder)}

    def run(*command: str) -> float:
        started = time.monotonic()
        done = subprocess.run(
            command,
            cwd=clone,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{commit}: {' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
        return time.monotonic() - started

    seconds = run("make", "setup", f"PYTHON={sys.executable}")
    if not (clone / "tools/set_up.py").exists():
        run(str(clone / ".venv/bin/python"), "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    return seconds + run("make", "setup-dev", f"PYTHON={sys.executable}")


def main(
    base: Annotated[str, typer.Argument(help="the commit to compare with")],
    new: Annotated[str, typer.Argument(help="the commit to measure")],
    runs: Annotated[int, typer.Option(min=1, help="clones of each")] = 3,
) -> None:
    """Print the seconds of each run and the ratio of the medians as JSON; end with 1 beyond the target."""
    seconds: dict[str, list[float]] = {base: [], new: []}
    for run in range(runs):
        for commit in (base, new):
            folder = Path(tempfile.mkdtemp(prefix="set-up-"))
            try:
                seconds[commit].append(round(set_up_s(commit, folder), 1))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            print(f"run {run + 1} of {runs}, {commit}: {seconds[commit][-1]} s", file=sys.stderr, flush=True)
    ratio = statistics.median(seconds[new]) / statistics.median(seconds[base])
    print(json.dumps({"seconds": seconds, "ratio": round(ratio, 3), "target": TARGET}, indent=2))
    raise typer.Exit(int(ratio > TARGET))


if __name__ == "__main__":
    typer.run(main)
