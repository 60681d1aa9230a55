"""A device that is stopped, killed or cut while it works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.core_device.offline_cloud import Device, OfflineCloud, deployment
from tests.core_device.test_component import alive, make, run, until
from twin.core_device.components import component
from twin.core_device.components.component import State
from twin.core_device.device import CoreDevice
from twin.core_device.dialect import CLASSIC, LITE, Dialect

FOREVER = {"run": "echo $$ >> pids; exec sleep 600"}
STUBBORN = "trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"


def test_a_stop_that_is_interrupted_ends_the_processes_and_whoever_waited(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, run=STUBBORN)
        component.start()
        await until(lambda: (tmp_path / "work" / "pid").exists() and (tmp_path / "work" / "pid").read_text())
        pid = int((tmp_path / "work" / "pid").read_text())

        stopping = asyncio.create_task(component.stop())
        await asyncio.sleep(0.1)
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await component.stop()

        assert stopping.cancelled()
        assert not alive(pid)

    run(scenario)


def test_a_component_whose_dependency_has_ended_is_killed_even_if_it_is_stopped_meanwhile(tmp_path: Path) -> None:
    async def scenario() -> None:
        component = make(tmp_path, run=STUBBORN)
        component.start()
        await until(lambda: (tmp_path / "work" / "pid").exists() and (tmp_path / "work" / "pid").read_text())
        pid = int((tmp_path / "work" / "pid").read_text())

        component.stop_bound("com.dependency")
        await asyncio.sleep(0.1)
        await component.stop()

        assert not alive(pid)

    run(scenario)


def save(device: Device) -> None:
    """What the IPC calls once a component has changed its configuration."""
    CoreDevice.save_configuration(cast(CoreDevice, SimpleNamespace(_deployer=device.deployer, store=device.store)))


def stored(root: Path, dialect: Dialect = LITE) -> Any:
    return Device(root, OfflineCloud(), dialect).store.get("com.a")


def test_what_a_component_sets_while_a_deployment_is_prepared_is_kept_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud)
        cloud.add("com.a", steps=FOREVER)
        await device.deployer.run(deployment({"com.a": "1.0.0"}))
        asked, answered = asyncio.Event(), asyncio.Event()

        async def slow() -> set[str]:
            asked.set()
            await answered.wait()
            return {"g"}

        cloud.thing_groups = slow  # type: ignore[method-assign]
        deploying = asyncio.create_task(device.deployer.run(deployment({"com.gone": "1.0.0"}, created=2)))
        await asked.wait()
        device.store.merge("com.a", (), {"own": 1}, 5)
        save(device)
        kept = stored(tmp_path)
        answered.set()
        await deploying
        await device.supervisor.stop_all()

        assert kept == {"own": 1}

    run(scenario)


def test_what_a_component_sets_while_a_deployment_is_undone_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud, CLASSIC)
        cloud.add("com.a", steps=FOREVER)
        cloud.add("com.a", "2.0.0", steps={"install": "exit 1", **FOREVER})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))
        start = device.supervisor.start

        async def starting(*arguments: Any) -> None:
            await start(*arguments)
            device.store.merge("com.a", (), {"own": 1}, 5)
            save(device)

        device.supervisor.start = starting  # type: ignore[method-assign,assignment]
        outcome = await device.deployer.run(deployment({"com.a": "2.0.0"}, created=2))
        await device.supervisor.stop_all()

        assert outcome.detail == "FAILED_ROLLBACK_COMPLETE"
        assert stored(tmp_path, CLASSIC) == {"own": 1}

    run(scenario)


@pytest.mark.parametrize(
    ("dialect", "detail", "runs"),
    [(LITE, "FAILED_ROLLBACK_NOT_REQUESTED", "2.0.0"), (CLASSIC, "FAILED_ROLLBACK_COMPLETE", "1.0.0")],
)
@pytest.mark.parametrize("file", ["deployed.json", "configuration.json"])
def test_a_deployment_that_a_full_disk_cannot_keep_fails_by_name_and_a_restart_has_the_one_before(
    tmp_path: Path, file: str, dialect: Dialect, detail: str, runs: str
) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud, dialect)
        cloud.add("com.a", steps=FOREVER)
        cloud.add("com.a", "2.0.0", steps=FOREVER)
        await device.deployer.run(deployment({"com.a": "1.0.0"}))
        (blocked := tmp_path / "config" / f"{file}.new").mkdir()  # no file can be written there

        outcome = await device.deployer.run(deployment({"com.a": "2.0.0"}, created=2))
        blocked.rmdir()

        assert (outcome.detail, outcome.kind) == (detail, "IO_ERROR")
        assert device.supervisor.components["com.a"].recipe.version == runs
        assert Device(tmp_path, cloud, dialect).deployer.deployed.components == {"com.a": "1.0.0"}
        assert (await device.deployer.run(deployment({"com.a": "2.0.0"}, created=3))).detail == "SUCCESSFUL"
        await device.supervisor.stop_all()

    run(scenario)


def test_after_a_restart_a_component_that_cannot_start_keeps_no_other_from_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud)
        cloud.add("com.base", steps={"run": "echo {configuration:/missing}"})
        cloud.add("com.dependent", steps=FOREVER, dependencies={"com.base": {}})
        cloud.add("com.other", steps=FOREVER, dependencies={"com.dependent": {"DependencyType": "SOFT"}})
        outcome = await device.deployer.run(deployment({"com.dependent": "1.0.0", "com.other": "1.0.0"}))
        await device.supervisor.stop_all()

        again = Device(tmp_path, cloud)
        await again.deployer.start_deployed()

        assert outcome.detail == "FAILED_ROLLBACK_NOT_REQUESTED"
        assert "com.other" in again.supervisor.components
        await again.supervisor.stop_all()

    run(scenario)


def test_an_install_step_that_failed_is_run_by_the_next_deployment(tmp_path: Path) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud)
        cloud.add("com.a", steps={"install": "echo x >> installs; test -e ready", **FOREVER})
        failed = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        before = device.work("com.a", "installs")
        device.layout.work("com.a").joinpath("ready").touch()

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}, created=2))
        after = device.work("com.a", "installs")
        await device.supervisor.stop_all()

        assert (failed.status, outcome.status) == ("FAILED", "SUCCEEDED")
        assert after == before + "x\n"

    run(scenario)


def test_a_dependency_has_the_time_that_its_startup_step_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(component, "_DEPENDENCY_LIMIT_S", 0.1)

    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud, CLASSIC)
        cloud.add("com.slow", steps={"startup": "sleep 1"})
        cloud.add("com.a", steps=FOREVER, dependencies={"com.slow": {}})

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        await device.supervisor.stop_all()

        assert (outcome.status, outcome.cause) == ("SUCCEEDED", "")

    run(scenario)


def test_after_a_restart_nothing_waits_for_an_install_step_that_failed_and_nothing_runs_without_it(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud)
        cloud.add("com.a", steps={"install": "echo x >> installs; test -e ready", **FOREVER})
        cloud.add("com.b", steps=FOREVER)
        await device.deployer.run(deployment({"com.b": "1.0.0"}))
        await device.deployer.run(deployment({"com.a": "1.0.0", "com.b": "1.0.0"}, created=2))
        await device.supervisor.stop_all()
        before = device.work("com.a", "installs")

        again = Device(tmp_path, cloud)
        await again.deployer.start_deployed()
        states = {name: component.state for name, component in again.supervisor.components.items()}
        await asyncio.sleep(0.2)
        alone = (again.work("com.a", "installs"), again.work("com.a", "pids"))
        again.layout.work("com.a").joinpath("ready").touch()
        outcome = await again.deployer.run(deployment({"com.a": "1.0.0", "com.b": "1.0.0"}, created=3))
        await again.supervisor.stop_all()

        assert states["com.a"] is State.BROKEN
        assert states["com.b"] is not State.BROKEN
        assert alone == (before, "")
        assert outcome.status == "SUCCEEDED"
        assert again.work("com.a", "installs") == before + "x\n"

    run(scenario)


@pytest.mark.parametrize("step", ["install", "run"])
def test_a_script_that_no_process_can_take_breaks_the_component_at_once(tmp_path: Path, step: str) -> None:
    async def scenario() -> None:
        cloud = OfflineCloud()
        device = Device(tmp_path, cloud)
        cloud.add("com.a", steps={**FOREVER, step: "echo {configuration:/x}"}, defaults={"x": "a\0b"})

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        state = device.supervisor.components["com.a"].state
        await device.supervisor.stop_all()

        assert (outcome.status, state) == ("FAILED", State.BROKEN)
        assert "com.a 1.0.0" in outcome.cause

    run(scenario)
