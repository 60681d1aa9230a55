"""What holds for every device of the twin: one with processes, and a simulated one with models of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core_device.offline_cloud import Device, OfflineCloud, deployment
from twin.core_device.components.component import State
from twin.core_device.dialect import CLASSIC, LITE, Dialect

WELL = {"install": "true", "run": "exec sleep 600"}
#: What the scripts below do, for the device that runs none.
MODELS = {
    "components": [
        {"component": "com.bad", "versions": ">=2.0.0", "exit": {"status": 3, "output": "no camera", "after_s": 0.01}},
        {"component": "com.uninstallable", "exit": {"step": "install", "status": 4, "after_s": 0.01}},
        {"component": "com.slow", "install_s": 600},
        {"component": "com.ends", "exit": {"status": 0, "after_s": 0.5}},
    ]
}
Scenario = Callable[[Device, OfflineCloud], Awaitable[None]]


@pytest.fixture(params=["processes", "models"])
def models(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    return MODELS if request.param == "models" else None


def run(root: Path, models: dict[str, Any] | None, scenario: Scenario, dialect: Dialect = LITE) -> None:
    async def main() -> None:
        cloud = OfflineCloud()
        device = Device(root, cloud, dialect, models)
        try:
            async with asyncio.timeout(60):
                await scenario(device, cloud)
        finally:
            await device.supervisor.stop_all()

    asyncio.run(main())


def test_a_component_is_installed_once_and_runs_on(tmp_path: Path, models: dict[str, Any] | None) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=WELL, artifacts=[cloud.add_zip("k/app.zip", {"a": "b"})])

        first = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        again = await device.deployer.run(deployment({"com.a": "1.0.0"}, created=2))

        assert (first.detail, again.detail) == ("SUCCESSFUL", "SUCCESSFUL")
        assert device.starts == {("com.a", "install"): 1, ("com.a", "run"): 1}
        assert device.supervisor.components["com.a"].state is State.RUNNING
        assert len(cloud.requested) == 1

    run(tmp_path, models, scenario)


@pytest.mark.parametrize(
    ("dialect", "detail", "version", "state"),
    [
        (CLASSIC, "FAILED_ROLLBACK_COMPLETE", "1.0.0", State.RUNNING),
        (LITE, "FAILED_ROLLBACK_NOT_REQUESTED", "2.0.0", State.BROKEN),
    ],
)
def test_a_crash_loop_fails_with_status_and_last_line_and_is_undone_by_classic_only(
    tmp_path: Path, models: dict[str, Any] | None, dialect: Dialect, detail: str, version: str, state: State
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.bad", "1.0.0", steps=WELL)
        cloud.add("com.bad", "2.0.0", steps={"run": "echo no camera; exit 3"})
        await device.deployer.run(deployment({"com.bad": "1.0.0"}))

        outcome = await device.deployer.run(deployment({"com.bad": "2.0.0"}, created=2))

        assert (outcome.status, outcome.detail) == ("FAILED", detail)
        assert "the run step exited with 3, its last output was: no camera (3 failures" in outcome.cause
        component = device.supervisor.components["com.bad"]
        assert (component.recipe.version, component.state) == (version, state)
        assert device.deployer.deployed.components == {"com.bad": version}

    run(tmp_path, models, scenario, dialect)


def test_a_broken_version_is_healed_by_the_one_before(tmp_path: Path, models: dict[str, Any] | None) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.bad", "1.0.0", steps=WELL)
        cloud.add("com.bad", "2.0.0", steps={"run": "exit 3"})
        await device.deployer.run(deployment({"com.bad": "2.0.0"}))

        outcome = await device.deployer.run(deployment({"com.bad": "1.0.0"}, created=2))

        assert outcome.status == "SUCCEEDED"
        assert device.supervisor.components["com.bad"].state is State.RUNNING

    run(tmp_path, models, scenario)


@pytest.mark.parametrize(("dialect", "attempts"), [(CLASSIC, 1), (LITE, 3)])
def test_an_install_step_is_tried_as_often_as_the_dialect_does(
    tmp_path: Path, models: dict[str, Any] | None, dialect: Dialect, attempts: int
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.uninstallable", steps={"install": "exit 4", "run": "sleep 600"})

        outcome = await device.deployer.run(deployment({"com.uninstallable": "1.0.0"}))

        assert "the install step exited with 4" in outcome.cause
        assert device.starts == {("com.uninstallable", "install"): attempts}

    run(tmp_path, models, scenario, dialect)


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path, models: dict[str, Any] | None) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.slow", steps={"install": {"Script": "exec sleep 600", "Timeout": 0.2}, "run": "sleep 600"})

        outcome = await device.deployer.run(deployment({"com.slow": "1.0.0"}))

        assert outcome.kind == "COMPONENT_INSTALL_TIMEOUT"
        assert "the install step took more than 0.2 s" in outcome.cause

    run(tmp_path, models, scenario)


@pytest.mark.parametrize(("dialect", "starts"), [(CLASSIC, 1), (LITE, 2)])
def test_a_configuration_starts_a_component_anew_on_lite_only(
    tmp_path: Path, models: dict[str, Any] | None, dialect: Dialect, starts: int
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=WELL)
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        entry = {"version": "1.0.0", "configurationUpdate": {"merge": {"new": 1}}}
        await device.deployer.run(deployment({"com.a": entry}, created=2))

        assert device.starts["com.a", "run"] == starts
        assert device.store.get("com.a") == {"new": 1}

    run(tmp_path, models, scenario, dialect)


@pytest.mark.parametrize(("dialect", "state"), [(CLASSIC, State.RUNNING), (LITE, State.BROKEN)])
def test_a_hard_dependency_that_ends_stops_its_dependents_on_lite_only(
    tmp_path: Path, models: dict[str, Any] | None, dialect: Dialect, state: State
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.ends", steps={"run": "sleep 0.5"})
        cloud.add("com.a", steps=WELL, dependencies={"com.ends": {"VersionRequirement": "1.0.0"}})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        while device.supervisor.components["com.ends"].state is not State.FINISHED:
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)

        assert device.supervisor.components["com.a"].state is state

    run(tmp_path, models, scenario, dialect)


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ({"Digest": "AAAA"}, "the SHA-256 digest must be AAAA"),
        ({"Uri": "s3://bucket/k/missing.zip"}, "cannot be downloaded: HTTP 404"),
        ({"Uri": "ftp://x/app.zip"}, "must begin with s3:// or greengrass:"),
    ],
)
def test_an_artifact_that_is_not_right_fails_the_deployment(
    tmp_path: Path, models: dict[str, Any] | None, entry: dict[str, str], part: str
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=WELL, artifacts=[{**cloud.add_zip("k/app.zip", {"a": "b"}), **entry}])

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert (outcome.status, outcome.detail) == ("FAILED", "FAILED_NO_STATE_CHANGE")
        assert part in outcome.cause
        assert not device.starts

    run(tmp_path, models, scenario)


def test_an_archive_that_is_none_fails_the_deployment(tmp_path: Path, models: dict[str, Any] | None) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"a": "b"})
        cloud.objects["https://bucket.s3.us-east-1.amazonaws.com/k/app.zip"] = b"no archive"
        del artifact["Digest"]
        cloud.add("com.a", steps=WELL, artifacts=[artifact])

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert outcome.kind == "ARTIFACT_UNARCHIVE_ERROR"
        assert "is not a readable ZIP archive" in outcome.cause

    run(tmp_path, models, scenario)


def test_what_a_group_no_longer_wants_goes(tmp_path: Path, models: dict[str, Any] | None) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=WELL, defaults={"x": 1})
        cloud.add("com.b", steps=WELL)
        await device.deployer.run(deployment({"com.a": "1.0.0", "com.b": "1.0.0"}))

        await device.deployer.run(deployment({"com.b": "1.0.0"}, created=2))

        assert set(device.supervisor.components) == {"com.b"}
        assert device.layout.documents.read(device.layout.recipe("com.a", "1.0.0")) is None
        assert device.layout.documents.read(device.layout.recipe("com.b", "1.0.0")) is not None
        assert device.starts["com.b", "run"] == 1
        with pytest.raises(KeyError):
            device.store.get("com.a")

    run(tmp_path, models, scenario)
