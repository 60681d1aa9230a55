"""A deploy that is interrupted at a random moment, then one destroy: nothing is left.

`INTERRUPTS=50 INTERRUPTS_SEED=1 pytest tests/integration/test_interrupts.py` tries more of them.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from tools.offline_deploy import CdkError, OfflineDeploy
from twin import inventory, lifecycle
from twin.state import TwinState

COUNT = int(os.environ.get("INTERRUPTS", "3"))
SEED = int(os.environ.get("INTERRUPTS_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
LATEST_S = float(os.environ.get("INTERRUPTS_LATEST_S", "45"))
"""A deploy takes about so long; an interrupt after its end is a destroy of a whole deploy."""

WHAT = ("SIGINT of the command line", "SIGKILL of the command line", "SIGKILL of the twin")

pytestmark = [pytest.mark.integration, pytest.mark.long, pytest.mark.timeout(600 + 300 * COUNT)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("state") / "twin"
    try:
        yield folder
    finally:
        lifecycle.stop(folder, anyway=True)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


def begin(home: Path, out: Path) -> OfflineDeploy:
    """The stage `twin`, synthesised, in a bootstrapped account."""
    deploy = OfflineDeploy(environment=lifecycle.start(home, auth=True).environment(), out=out)
    deploy.synth()
    deploy.bootstrap()
    return deploy


def command_line() -> psutil.Process | None:
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if "deploy" in child.cmdline():
                return child
    return None


def interrupt(what: str, after_s: float, state: TwinState, ended: threading.Event) -> None:
    if ended.wait(after_s):
        return
    if what == WHAT[2]:
        os.kill(state.pid, signal.SIGKILL)
    elif found := command_line():
        with suppress(ProcessLookupError):
            os.killpg(found.pid, signal.SIGINT if what == WHAT[0] else signal.SIGKILL)


def has_ended(state: TwinState) -> bool:
    return not state.running


def left(state: TwinState) -> list[str]:
    found = inventory.take(state)
    return [f"{kind} {name}" for kind, names in found.items() if kind != inventory.BOOTSTRAP for name in names]


def test_after_one_destroy_nothing_is_left(home: Path, out: Path) -> None:
    first = begin(home, out)
    chance = random.Random(SEED)  # noqa: S311 - which moments are tried
    told: list[str] = []
    failures = 0
    for number in range(COUNT):
        what, after_s = WHAT[number % len(WHAT)], chance.uniform(0.5, LATEST_S)
        state = lifecycle.start(home, auth=True)
        ended = threading.Event()
        interrupter = threading.Thread(target=interrupt, args=(what, after_s, state, ended))
        began = time.monotonic()
        interrupter.start()
        with suppress(CdkError):
            replace(first, twin_has_ended=partial(has_ended, state)).deploy()
        ended.set()
        interrupter.join()
        took_s = time.monotonic() - began

        state = lifecycle.start(home, auth=True)
        outcome = "nothing left"
        try:
            first.destroy()
        except CdkError as exc:
            outcome = f"destroy failed: {str(exc)[-500:]}"
        found = left(state)
        if found or outcome != "nothing left":
            failures += 1
            outcome += f"; left: {', '.join(found)}"
        told.append(f"{number}: {what} after {after_s:.1f} s of {took_s:.1f} s: {outcome}")
        sys.stderr.write(f"{told[-1]}\n")
        if found or outcome != "nothing left":
            # What one try left is not the next one's; the folder stays to be looked at.
            lifecycle.stop(home, anyway=True)
            home.rename(home.with_name(f"failed-{number}"))
            first = begin(home, out)

    assert failures == 0, f"seed {SEED}:\n" + "\n".join(told)
