"""How long `make test` takes in one checkout against another one, both set up before.

    .venv/bin/python benchmarks/test_time.py BASE CHECKOUT [--runs 3] [--pytest-only | --common]

The checkouts take turns, so that a busy machine slows both down. CPU counts every process that has ended. Runs that
fail are shown as such and count for nothing. `--common` runs the tests that both have: functions of the same name with
as many cases, else cases with the same parameters, in whatever file.
"""

import argparse
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 3600
SUMMARY = " passed"


@dataclass(frozen=True)
class Run:
    """One run that passed: seconds on the clock, seconds of the processors, and how many tests passed."""

    wall_s: float
    cpu_s: float
    summary: str


def main() -> None:
    """Run the checkouts in turn and print each run, the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("base", type=Path, help="the checkout to compare with")
    parser.add_argument("checkout", type=Path, help="the checkout to measure")
    parser.add_argument("--runs", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--pytest-only", action="store_true", help="leave out the checks that come before the tests")
    parser.add_argument("--common", action="store_true", help="only the tests that both checkouts have")
    given = parser.parse_args()
    checkouts = [given.base.resolve(), given.checkout.resolve()]
    if given.common:
        commands = dict(zip(checkouts, _in_both(*checkouts), strict=True))
    else:
        commands = {folder: _command(folder, pytest_only=given.pytest_only) for folder in checkouts}
    runs: dict[Path, list[Run]] = {folder: [] for folder in checkouts}
    for turn in range(given.runs):
        for folder in checkouts:
            run = _run(folder, commands[folder])
            if run is None:
                continue
            runs[folder].append(run)
            print(f"{turn + 1} {folder}: {run.wall_s:.0f} s, CPU {run.cpu_s:.0f} s, {run.summary}", flush=True)
    if not all(runs.values()):
        sys.exit("a checkout has no run that passed: there is nothing to compare")
    base, measured = ([statistics.median(getattr(run, what) for run in runs[folder]) for what in ("wall_s", "cpu_s")]
                      for folder in checkouts)  # fmt: skip
    print(f"median: {base[0]:.0f} s -> {measured[0]:.0f} s = {measured[0] / base[0]:.2f} x; "
          f"CPU {base[1]:.0f} s -> {measured[1]:.0f} s = {measured[1] / base[1]:.2f} x")  # fmt: skip


def _command(folder: Path, *, pytest_only: bool) -> list[str]:
    """What runs the tests of a checkout: its own recipe, as `make` would run it."""
    if not pytest_only:
        return ["make", "test"]
    recipe = subprocess.run(["make", "--dry-run", "test"], cwd=folder, capture_output=True, text=True, check=True)
    lines = [line.strip().removeprefix("@") for line in recipe.stdout.splitlines()]
    pytest = [line for line in lines if line.startswith(".venv/bin/pytest ")]
    if len(pytest) != 1:
        sys.exit(f"make test of {folder} must have one line with .venv/bin/pytest, got {len(pytest)}")
    return shlex.split(pytest[0])


def _in_both(base: Path, checkout: Path) -> list[list[str]]:
    """The commands that run the tests which both checkouts have, each one once."""
    recipes = [_command(folder, pytest_only=True) for folder in (base, checkout)]
    collected = [_tests(folder, recipe) for folder, recipe in zip((base, checkout), recipes, strict=True)]
    # A case whose parameter is written otherwise today is the same case, where there are as many of them.
    functions = [Counter(_function(name) for name, _ in tests) for tests in collected]
    same = {name for name, count in functions[0].items() if functions[1][name] == count}
    collected = [[(_function(name) if _function(name) in same else name, node) for name, node in tests]
                 for tests in collected]  # fmt: skip
    counts = [Counter(name for name, _ in tests) for tests in collected]
    shared = counts[0] & counts[1]
    print(f"{shared.total()} tests in both, of {counts[0].total()} and {counts[1].total()}", flush=True)
    commands = []
    for folder, recipe, tests in zip((base, checkout), recipes, collected, strict=True):
        left, chosen = Counter(shared), folder / "out" / "tests-in-both.txt"
        picked = []
        for name, node in tests:
            if left[name]:
                left[name] -= 1
                picked.append(node)
        chosen.parent.mkdir(exist_ok=True)
        chosen.write_text("\n".join(picked) + "\n", encoding="utf-8")
        commands.append([*recipe, f"@{chosen}"])
    return commands


def _function(name: str) -> str:
    return name.partition("[")[0]


def _tests(folder: Path, recipe: list[str]) -> list[tuple[str, str]]:
    """What pytest would run: each test's function with its parameters, and its node id."""
    command = [recipe[0], "--collect-only", "-q", *recipe[recipe.index("-m") : recipe.index("-m") + 2]]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    nodes = [line.strip() for line in told.stdout.splitlines() if "::" in line]
    return [(node.partition("::")[2], node) for node in nodes]


def _run(folder: Path, command: list[str]) -> Run | None:
    before, started = _cpu_s(), time.monotonic()
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "MAKEFLAGS")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    wall_s, cpu_s = time.monotonic() - started, _cpu_s() - before
    lines = done.stdout.splitlines()
    if done.returncode:
        print(f"{folder}: failed after {wall_s:.0f} s:", *(lines + done.stderr.splitlines())[-20:], sep="\n  ")
        return None
    return Run(wall_s, cpu_s, next((line.strip("= ") for line in reversed(lines) if SUMMARY in line), "no summary"))


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
