"""A device that several targets want something of, and what stays when one of them wants it no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core_device.offline_cloud import Device, OfflineCloud, deployment
from tests.core_device.test_deployment import FOREVER, run
from twin.core_device.components.component import State
from twin.core_device.dialect import CLASSIC, LITE, Dialect

THING = "arn:aws:greengrass:us-east-1:000000000000:configuration:thing/thing-1:1"


@pytest.mark.parametrize(("dialect", "left"), [(CLASSIC, {"com.own", "com.shared"}), (LITE, {"com.shared"})])
def test_a_group_s_deployment_takes_away_what_the_thing_s_has_brought_on_lite_only(
    tmp_path: Path, dialect: Dialect, left: set[str]
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for name in ("com.own", "com.shared"):
            cloud.add(name, steps=FOREVER)

        first = await device.deployer.run(deployment({"com.own": "1.0.0"}, configurationArn=THING))
        second = await device.deployer.run(deployment({"com.shared": "1.0.0"}, created=2))

        assert (first.status, second.status) == ("SUCCEEDED", "SUCCEEDED")
        assert set(device.supervisor.components) == left

    run(tmp_path, scenario, dialect)


@pytest.mark.parametrize("dialect", [CLASSIC, LITE])
def test_two_groups_that_want_different_versions_fail(tmp_path: Path, dialect: Dialect) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for version in ("1.0.0", "1.1.0"):
            cloud.add("com.a", version, steps=FOREVER)
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        outcome = await device.deployer.run(deployment({"com.a": "1.1.0"}, group="other", created=2))

        assert (outcome.status, outcome.detail) == ("FAILED", "FAILED_NO_STATE_CHANGE")
        assert "com.a" in outcome.cause
        assert device.supervisor.components["com.a"].recipe.version == "1.0.0"

    run(tmp_path, scenario, dialect)


@pytest.mark.parametrize(("dialect", "stays"), [(CLASSIC, False), (LITE, True)])
def test_lite_keeps_a_pre_release_that_nobody_wants_any_more(tmp_path: Path, dialect: Dialect, stays: bool) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.next", "1.0.0-rc.1", steps=FOREVER)
        cloud.add("com.a", steps=FOREVER)
        await device.deployer.run(deployment({"com.next": "1.0.0-rc.1", "com.a": "1.0.0"}))

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}, created=2))

        assert outcome.status == "SUCCEEDED"
        assert ("com.next" in device.supervisor.components) is stays
        assert device.layout.recipe("com.next", "1.0.0-rc.1").exists() is stays
        assert ("com.next" in device.deployer.deployed.components) is stays
        assert len(device.work("com.next", "pids").split()) == stays

    run(tmp_path, scenario, dialect)


@pytest.mark.parametrize("dialect", [CLASSIC, LITE])
def test_nobody_is_asked_before_an_update(tmp_path: Path, dialect: Dialect) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for version in ("1.0.0", "1.1.0"):
            cloud.add("com.a", version, steps={"run": "trap 'echo told > told; exit 0' TERM; sleep 600 & wait"})
        policy = {"action": "NOTIFY_COMPONENTS", "timeout": 3600}
        await device.deployer.run(deployment({"com.a": "1.0.0"}, componentUpdatePolicy=policy))

        outcome = await device.deployer.run(deployment({"com.a": "1.1.0"}, created=2, componentUpdatePolicy=policy))

        assert outcome.status == "SUCCEEDED"
        assert device.work("com.a", "told") == "told\n"
        assert device.supervisor.components["com.a"].state is State.RUNNING

    run(tmp_path, scenario, dialect)


def test_a_bootstrap_step_that_fails_fails_the_deployment(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps={"bootstrap": "echo no room; exit 3", **FOREVER})

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert (outcome.status, outcome.kind) == ("FAILED", "COMPONENT_BOOTSTRAP_ERROR")
        assert "the bootstrap step exited with 3, its last output was: no room" in outcome.cause

    run(tmp_path, scenario, CLASSIC)


@pytest.mark.parametrize(("dialect", "status"), [(CLASSIC, "FAILED"), (LITE, "SUCCEEDED")])
def test_components_that_differ_in_case_only_are_one_on_classic(tmp_path: Path, dialect: Dialect, status: str) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for name in ("com.x.Hello", "com.x.hello"):
            cloud.add(name, steps=FOREVER)

        outcome = await device.deployer.run(deployment({"com.x.Hello": "1.0.0", "com.x.hello": "1.0.0"}))

        assert outcome.status == status
        assert ("are one to the classic nucleus" in outcome.cause) is (dialect is CLASSIC)

    run(tmp_path, scenario, dialect)


def test_a_component_that_is_only_spelt_anew_keeps_its_configuration_on_classic(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        script = {"run": "echo {configuration:/message} > said; exec sleep 600"}
        for name in ("com.x.Hello", "com.x.hello"):
            cloud.add(name, steps=script, defaults={"Message": "default"})
        entry = {"version": "1.0.0", "configurationUpdate": {"merge": {"mEssage": "kept"}}}
        await device.deployer.run(deployment({"com.x.Hello": entry}))

        await device.deployer.run(deployment({"com.x.hello": "1.0.0"}, created=2))

        assert device.work("com.x.hello", "said") == "kept\n"
        assert device.store.get("com.x.hello") == {"Message": "kept"}

    run(tmp_path, scenario, CLASSIC)
