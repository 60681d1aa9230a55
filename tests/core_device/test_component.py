"""Components as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from tests.core_device.offline_cloud import at_work
from twin.core_device.client_devices.plugins import RunningPart
from twin.core_device.components.component import Component, Patience, State
from twin.core_device.components.process import ComponentLog, RunningStep, in_processes
from twin.core_device.components.recipe import Recipe, Step
from twin.core_device.dialect import CLASSIC, LITE, Dialect
from twin.core_device.errors import CoreDeviceError, DeploymentError
from twin.core_device.processes import InstanceLock, ProcessRegistry, start_ticks

QUICK = Patience(stable_s=0.3, reset_s=5.0, restart_s=0.02, grace_s=0.5)


def make(
    folder: Path,
    timeout_s: float = 60.0,
    states: list[State] | None = None,
    patience: Patience = QUICK,
    dialect: Dialect = LITE,
    **scripts: str,
) -> Component:
    steps = {name: Step(name, script, timeout_s, {}) for name, script in scripts.items()}
    log = ComponentLog(folder / "com.x.log")
    spawn = in_processes(folder / "work", log, ProcessRegistry(folder / "processes.json"))

    async def begin(step: Step, script: str, environment: Mapping[str, str]) -> RunningStep:
        return await at_work(await spawn(step, script, environment))

    component = Component(
        Recipe("com.x", "1.0.0", {}, (), (), steps),
        lambda step: (step.script, {"PATH": os.environ["PATH"]}),
        begin,
        log,
        lambda _: states.append(component.state) if states is not None else None,
        patience,
        dialect=dialect,
    )
    return component


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    return start_ticks(pid) is not None


def test_a_run_step_that_ends_with_0_is_finished(tmp_path: Path) -> None:
    async def scenario() -> None:
        states: list[State] = []
        component = make(tmp_path, states=states, install="echo installed > here", run="cat here")

        await component.install()
        component.start()
        await until(lambda: component.settled)

        assert states == [State.INSTALLED, State.STARTING, State.RUNNING, State.FINISHED]
        assert "installed" in (tmp_path / "com.x.log").read_text()

    run(scenario)


def test_a_failed_install_step_tells_its_status_and_last_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, install="echo one; echo 'no space left' >&2; exit 7")

        with pytest.raises(DeploymentError, match=r"com\.x 1\.0\.0: the install step exited with 7.*no space left"):
            await component.install()

        assert component.state is State.BROKEN

    run(scenario)


def test_an_install_step_that_hangs_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, timeout_s=0.3, install="sleep 600 & echo $! > child; trap '' TERM; sleep 600")

        with pytest.raises(DeploymentError, match=r"took more than 0\.3 s"):
            await component.install()

        child = int((tmp_path / "work" / "child").read_text())
        await until(lambda: not alive(child))

    run(scenario)


@pytest.mark.parametrize(("dialect", "within"), [(CLASSIC, "in a row"), (LITE, "within 3600 s")])
def test_three_failures_in_a_row_break_a_component(tmp_path: Path, dialect: Dialect, within: str) -> None:
    async def scenario() -> None:
        component = make(tmp_path, dialect=dialect, run="echo x >> attempts; echo boom; exit 3")

        component.start()
        await until(lambda: component.state is State.BROKEN)

        assert (tmp_path / "work" / "attempts").read_text() == "x\n" * 3
        assert f"exited with 3, its last output was: boom (3 failures {within})" in component.failure

    run(scenario)


def test_classic_forgets_failures_after_a_healthy_while(tmp_path: Path) -> None:
    async def scenario() -> None:
        patience = Patience(stable_s=0.1, reset_s=0.2, restart_s=0.02, grace_s=0.5)
        component = make(tmp_path, patience=patience, dialect=CLASSIC, run="echo x >> attempts; sleep 0.3; exit 3")

        component.start()
        await until(lambda: (tmp_path / "work" / "attempts").exists())
        await until(lambda: (tmp_path / "work" / "attempts").read_text().count("x\n") >= 5)

        assert component.state is not State.BROKEN
        await component.stop()

    run(scenario)


def test_lite_counts_the_failures_of_an_hour_whatever_ran_well_between_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        patience = Patience(stable_s=0.1, reset_s=0.2, restart_s=0.02, grace_s=0.5)
        component = make(tmp_path, patience=patience, run="echo x >> attempts; sleep 0.3; exit 3")

        component.start()
        await until(lambda: component.state is State.BROKEN)

        assert (tmp_path / "work" / "attempts").read_text() == "x\n" * 3

    run(scenario)


def test_lite_forgets_failures_once_the_hour_is_over(tmp_path: Path) -> None:
    async def scenario() -> None:
        dialect = replace(LITE, start_window_s=0.1)
        component = make(tmp_path, dialect=dialect, run="echo x >> attempts; sleep 0.3; exit 3")

        component.start()
        await until(lambda: (tmp_path / "work" / "attempts").exists())
        await until(lambda: (tmp_path / "work" / "attempts").read_text().count("x\n") >= 4)

        assert component.state is not State.BROKEN
        await component.stop()

    run(scenario)


@pytest.mark.parametrize(("dialect", "state"), [(CLASSIC, State.BROKEN), (LITE, State.INSTALLED)])
def test_lite_tries_an_install_step_three_times(tmp_path: Path, dialect: Dialect, state: State) -> None:
    async def scenario() -> None:
        component = make(tmp_path, dialect=dialect, install="echo x >> tries; test $(wc -l < tries) = 3")

        with contextlib.suppress(DeploymentError):
            await component.install()

        assert component.state is state

    run(scenario)


def test_a_killed_component_is_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, run="echo $$ >> pids; exec sleep 600")
        component.start()
        await until(lambda: component.settled)

        os.kill(int((tmp_path / "work" / "pids").read_text()), 9)
        await until(lambda: (tmp_path / "work" / "pids").read_text().count("\n") == 2)
        await until(lambda: component.settled)

        assert component.state is State.RUNNING
        await component.stop()

    run(scenario)


def test_stop_ends_the_whole_group_even_one_that_ignores_sigterm(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, run="trap '' TERM; sleep 600 & echo $! > child; while :; do sleep 1; done")
        component.start()
        await until((tmp_path / "work" / "child").exists)
        await until(lambda: (tmp_path / "work" / "child").read_text())
        began = time.monotonic()

        await component.stop()

        assert time.monotonic() - began < 60  # sleep has 600
        child = int((tmp_path / "work" / "child").read_text())
        await until(lambda: not alive(child))
        assert (tmp_path / "processes.json").read_text() == "{}"

    run(scenario)


def test_a_component_that_says_it_runs_is_settled_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, patience=replace(QUICK, stable_s=600.0), run="exec sleep 600")
        component.start()
        await until(lambda: component.state is State.RUNNING)
        assert not component.settled

        component.report(State.RUNNING)

        assert component.settled
        component.report(State.ERRORED)
        assert not component.settled
        await component.stop()

    run(scenario)


def test_a_part_that_says_it_runs_before_its_start_is_noted_is_settled_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = ComponentLog(tmp_path / "com.x.log")
        says: Callable[[], None]

        async def part() -> None:
            says()
            await asyncio.Event().wait()

        async def spawn(_step: Step, _script: str, _environment: Mapping[str, str]) -> RunningStep:
            return RunningPart(part(), log)

        recipe = Recipe("com.x", "1.0.0", {}, (), (), {"run": Step("run", "", 0.0, {})})
        component = Component(
            recipe, lambda _: ("", {}), spawn, log, lambda _: None, replace(QUICK, stable_s=600.0), dialect=CLASSIC
        )
        says = lambda: component.report(State.RUNNING)  # noqa: E731 - it needs what it is made for

        component.start()
        await until(lambda: component.settled)

        await component.stop()

    run(scenario)


def test_a_component_that_is_started_again_has_to_say_anew_that_it_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, patience=replace(QUICK, stable_s=600.0), run="echo $$ >> pids; exec sleep 600")
        component.start()
        await until(lambda: component.state is State.RUNNING)
        component.report(State.RUNNING)

        os.kill(int((tmp_path / "work" / "pids").read_text()), 9)
        await until(lambda: (tmp_path / "work" / "pids").read_text().count("\n") == 2)
        await until(lambda: component.state is State.RUNNING)

        assert not component.settled
        await component.stop()

    run(scenario)


def test_the_log_is_cut_into_bounded_files(tmp_path: Path) -> None:
    log = ComponentLog(tmp_path / "c.log", limit_bytes=100, kept=2)

    for number in range(40):
        log.write(b"line %02d\n" % number)

    assert {path.name for path in tmp_path.iterdir()} <= {"c.log", "c.log.1", "c.log.2"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 400
    assert log.last_line() == "line 39"


def test_a_successor_ends_what_a_killed_device_left_and_nothing_else(tmp_path: Path) -> None:
    left = subprocess.Popen(["/bin/sh", "-c", "sleep 600 & wait"], start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        ticks = start_ticks(left.pid)
        assert ticks
        (tmp_path / "processes.json").write_text(f'{{"{left.pid}": {ticks}, "{other.pid}": {ticks - 1000}}}')

        ended = ProcessRegistry(tmp_path / "processes.json").end_leftovers()

        assert ended == 1
        assert left.wait(30) == -9
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_second_device_on_one_root_is_refused_until_the_first_dies(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from twin.core_device.processes import InstanceLock;"
        "lock = InstanceLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "core_device.pid")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert holder.stdout
    holder.stdout.readline()

    with pytest.raises(CoreDeviceError, match=rf"another core device runs on .*{holder.pid}"):
        InstanceLock(tmp_path / "core_device.pid").acquire()
    holder.kill()
    holder.wait()
    lock = InstanceLock(tmp_path / "core_device.pid")
    lock.acquire()

    assert f'"pid": {os.getpid()}' in (tmp_path / "core_device.pid").read_text()
    lock.release()
    assert not (tmp_path / "core_device.pid").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that is always full is Linux's")
def test_on_a_full_disk_a_component_loses_its_output_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "com.x.log").symlink_to("/dev/full")
    (tmp_path / "processes.json").mkdir()

    async def scenario() -> None:
        component = make(tmp_path, run="head -c 1000000 /dev/zero; echo done > ended")
        component.start()
        await until(lambda: component.state in (State.FINISHED, State.ERRORED, State.BROKEN))

        assert (component.state, component.failure) == (State.FINISHED, "")
        assert (tmp_path / "work" / "ended").read_text() == "done\n"
        await component.stop()

    run(scenario)

    told = [record.getMessage() for record in caplog.records]
    assert sum("output of a component is lost" in line for line in told) == 1
    assert any("a device that is killed now leaves its components running" in line for line in told)


def test_a_stop_that_was_cancelled_is_ended_by_the_next_without_a_second_shutdown(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, dialect=CLASSIC, run="sleep 600", shutdown="echo x >> shutdowns; sleep 600")
        component.start()
        await until(lambda: component.state is State.RUNNING)

        first = asyncio.create_task(component.stop())
        await until(lambda: (tmp_path / "work" / "shutdowns").exists())
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await component.stop()

        assert (tmp_path / "work" / "shutdowns").read_text() == "x\n"

    run(scenario)
