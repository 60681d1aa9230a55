"""Whole deployments with real processes, the cloud's answers given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.core_device.offline_cloud import Device, OfflineCloud, deployment
from twin.core_device.components.component import State
from twin.core_device.deployment.document import parse_document
from twin.core_device.dialect import CLASSIC, LITE, Dialect
from twin.core_device.errors import DeploymentError

FOREVER = {"run": "echo $$ >> pids; exec sleep 600"}


def run(root: Path, scenario: Callable[[Device, OfflineCloud], Awaitable[None]], dialect: Dialect = LITE) -> None:
    async def main() -> None:
        cloud = OfflineCloud()
        device = Device(root, cloud, dialect)
        try:
            async with asyncio.timeout(30):
                await scenario(device, cloud)
        finally:
            await device.supervisor.stop_all()

    asyncio.run(main())


def test_installs_and_runs_an_artifact_with_its_configuration(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"go.sh": "echo $1 > said"})
        script = "sh {artifacts:decompressedPath}/app/go.sh {configuration:/word}"
        cloud.add("com.a", steps={"install": script, **FOREVER}, artifacts=[artifact], defaults={"word": "default"})

        entry = {"version": "1.0.0", "configurationUpdate": {"merge": {"word": "merged"}}}
        outcome = await device.deployer.run(deployment({"com.a": entry}))

        assert (outcome.status, outcome.detail) == ("SUCCEEDED", "SUCCESSFUL")
        assert device.work("com.a", "said") == "merged\n"
        assert device.supervisor.components["com.a"].state is State.RUNNING

    run(tmp_path, scenario)


def test_a_component_can_start_an_interpreter_that_needs_the_loaders_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/python/lib")

    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps={"install": 'echo "$LD_LIBRARY_PATH" > said', **FOREVER})

        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert device.work("com.a", "said") == "/opt/python/lib\n"

    run(tmp_path, scenario)


@pytest.mark.parametrize(("dialect", "starts"), [(CLASSIC, 1), (LITE, 2)])
def test_a_configuration_starts_a_component_of_the_same_version_anew_on_lite_only(
    tmp_path: Path, dialect: Dialect, starts: int
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for name in ("com.a", "com.b"):
            cloud.add(name, steps={"install": "echo x >> installs", **FOREVER})
        await device.deployer.run(deployment({"com.a": "1.0.0", "com.b": "1.0.0"}))

        entry = {"version": "1.0.0", "configurationUpdate": {"merge": {"new": 1}}}
        outcome = await device.deployer.run(deployment({"com.a": entry, "com.b": "1.0.0"}, created=2))

        assert outcome.status == "SUCCEEDED"
        assert len(device.work("com.a", "pids").split()) == starts
        assert len(device.work("com.b", "pids").split()) == 1
        assert device.work("com.a", "installs") == "x\n"
        assert device.store.get("com.a") == {"new": 1}
        assert cloud.resolved.count("com.a") == 1

    run(tmp_path, scenario, dialect)


def test_lite_tells_of_a_merge_before_the_stop_and_of_no_reset(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=FOREVER)
        first = {"version": "1.0.0", "configurationUpdate": {"merge": {"word": 1, "gone": 2}}}
        await device.deployer.run(deployment({"com.a": first}))
        told: list[tuple[str, bool]] = []
        device.store.subscribe(
            "com.a", (), lambda _name, path: told.append(("/".join(path), "com.a" in device.supervisor.components))
        )

        second = {"version": "1.0.0", "configurationUpdate": {"merge": {"word": 3}, "reset": ["/gone"]}}
        await device.deployer.run(deployment({"com.a": second}, created=2))

        assert device.store.get("com.a") == {"word": 3}
        assert told == [("word", True)]

    run(tmp_path, scenario, LITE)


def test_what_is_no_longer_set_goes_back_before_the_merge_and_a_component_of_classic_runs_on(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        defaults = {"models": {"digits": {"topic": "t"}}, "accessControl": {"x": 1}}
        cloud.add("com.a", steps=FOREVER, defaults=defaults)

        def entry(merge: dict[str, object]) -> dict[str, object]:
            update = {"merge": merge, "reset": ["/models", "/interval", "/never~1set"]}
            return {"version": "1.0.0", "configurationUpdate": update}

        first = {"models": {"digits": {"topic": "other", "topK": 1}, "gone": {"topK": 2}}, "interval": 5, "key": "k"}
        await device.deployer.run(deployment({"com.a": entry(first)}))
        outcome = await device.deployer.run(
            deployment({"com.a": entry({"models": {"digits": {"topK": 3}}})}, created=2)
        )

        assert outcome.status == "SUCCEEDED"
        assert device.store.get("com.a") == {**defaults, "models": {"digits": {"topic": "t", "topK": 3}}, "key": "k"}
        assert len(device.work("com.a", "pids").split()) == 1

    run(tmp_path, scenario, CLASSIC)


def test_a_failing_update_is_rolled_back_with_its_configuration(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=FOREVER, defaults={"x": 1})
        cloud.add("com.a", "2.0.0", steps={"run": "echo boom; exit 1"}, defaults={"x": 2})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        outcome = await device.deployer.run(deployment({"com.a": "2.0.0"}, created=2))

        assert (outcome.status, outcome.detail) == ("FAILED", "FAILED_ROLLBACK_COMPLETE")
        assert "com.a 2.0.0: the run step exited with 1, its last output was: boom" in outcome.cause
        component = device.supervisor.components["com.a"]
        assert (component.recipe.version, component.state) == ("1.0.0", State.RUNNING)
        assert device.store.get("com.a") == {"x": 1}
        assert device.deployer.deployed.components == {"com.a": "1.0.0"}

    run(tmp_path, scenario, CLASSIC)


def test_lite_leaves_a_broken_version_and_is_healed_by_the_one_before(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=FOREVER)
        cloud.add("com.a", "2.0.0", steps={"run": "echo boom; exit 1"})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        failed = await device.deployer.run(deployment({"com.a": "2.0.0"}, created=2))
        state = device.supervisor.components["com.a"].state
        healed = await device.deployer.run(deployment({"com.a": "1.0.0"}, created=3))

        assert (failed.status, failed.detail, state) == ("FAILED", "FAILED_ROLLBACK_NOT_REQUESTED", State.BROKEN)
        assert healed.status == "SUCCEEDED"
        component = device.supervisor.components["com.a"]
        assert (component.recipe.version, component.state) == ("1.0.0", State.RUNNING)

    run(tmp_path, scenario)


def test_without_rollback_the_failed_state_stays(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps={"install": "exit 9", **FOREVER})

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}, failureHandlingPolicy="DO_NOTHING"))

        assert outcome.detail == "FAILED_ROLLBACK_NOT_REQUESTED"
        assert device.supervisor.components["com.a"].state is State.BROKEN

    run(tmp_path, scenario)


@pytest.mark.parametrize("dialect", [LITE, CLASSIC])
def test_a_removed_component_is_stopped_and_deleted_but_for_its_work_folder_on_lite(
    tmp_path: Path, dialect: Dialect
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"x": ""})
        cloud.add("com.a", steps=FOREVER, artifacts=[artifact], defaults={"x": 1})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        outcome = await device.deployer.run(deployment({}, created=2))

        assert outcome.status == "SUCCEEDED"
        assert device.supervisor.components == {}
        left = [path for path in tmp_path.rglob("*com.a*") if path.parent.name != "log"]
        assert left == ([tmp_path / "work" / "com.a"] if dialect is LITE else [])
        with pytest.raises(KeyError):
            device.store.get("com.a")

    run(tmp_path, scenario, dialect)


def test_groups_are_merged_and_a_left_group_takes_its_components_along(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=FOREVER)
        cloud.add("com.b", steps=FOREVER)
        await device.deployer.run(deployment({"com.a": "1.0.0"}, group="g"))
        await device.deployer.run(deployment({"com.b": "1.0.0"}, group="other", created=2))
        assert set(device.supervisor.components) == {"com.a", "com.b"}

        cloud.groups = {"other"}
        await device.deployer.run(deployment({"com.b": "1.0.0"}, group="other", created=3))

        assert set(device.supervisor.components) == {"com.b"}

    run(tmp_path, scenario)


def test_dependencies_are_brought_along_and_started_first(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        range_ = {"VersionRequirement": ">=1.0.0 <2.0.0"}
        cloud.add("com.base", "1.5.0", steps={"run": "echo base > ../order"})
        cloud.add("com.base", "2.0.0", steps={"run": "exit 1"})
        cloud.add("com.top", steps={"run": "echo top >> ../order"}, dependencies={"com.base": range_})

        outcome = await device.deployer.run(deployment({"com.top": "1.0.0"}))

        assert outcome.status == "SUCCEEDED"
        assert (tmp_path / "work" / "order").read_text() == "base\ntop\n"
        assert device.deployer.deployed.components == {"com.base": "1.5.0", "com.top": "1.0.0"}

    run(tmp_path, scenario, CLASSIC)


def test_a_circle_of_dependencies_changes_nothing(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", dependencies={"com.b": {}})
        cloud.add("com.b", dependencies={"com.a": {}})

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert outcome.detail == "FAILED_NO_STATE_CHANGE"
        assert "in a circle" in outcome.cause

    run(tmp_path, scenario)


def test_a_wrong_digest_names_component_artifact_expected_and_got(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"x": ""})
        cloud.objects["https://bucket.s3.us-east-1.amazonaws.com/k/app.zip"] += b"tampered"
        cloud.add("com.a", steps=FOREVER, artifacts=[artifact])

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert (outcome.detail, outcome.kind) == ("FAILED_NO_STATE_CHANGE", "ARTIFACT_CHECKSUM_MISMATCH")
        assert (
            f"component com.a 1.0.0, artifact s3://bucket/k/app.zip: the SHA-256 digest must be {artifact['Digest']}"
            in (outcome.cause)
        )
        assert not list(tmp_path.rglob("app.zip*"))

    run(tmp_path, scenario)


def test_forbidden_is_tried_three_times_and_missing_once(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"x": ""})
        cloud.add("com.a", steps=FOREVER, artifacts=[artifact])
        cloud.answers = [(403, "not now")] * 3
        forbidden = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        requests = len(cloud.requested)
        cloud.objects.clear()
        missing = await device.deployer.run(deployment({"com.a": "1.0.0"}, created=2))

        assert (requests, len(cloud.requested)) == (3, 4)
        assert "HTTP 403" in forbidden.cause
        assert "HTTP 404: NoSuchKey" in missing.cause

    run(tmp_path, scenario)


def test_after_a_restart_everything_runs_again_without_the_cloud(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        install = {"install": "echo x >> installs"}
        cloud.add("com.a", steps={**install, **FOREVER})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))
        await device.supervisor.stop_all()

        again = Device(tmp_path, OfflineCloud())
        await again.deployer.start_deployed()
        await again.supervisor.wait_settled(60)

        assert again.supervisor.components["com.a"].state is State.RUNNING
        assert len(again.work("com.a", "pids").split()) == 2
        assert again.work("com.a", "installs") == "x\n"
        await again.supervisor.stop_all()

    run(tmp_path, scenario)


def test_an_interrupted_deployment_is_carried_out_again(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps={"install": "echo x >> installs; test -e ready || exec sleep 600", **FOREVER})
        first = asyncio.create_task(device.deployer.run(deployment({"com.a": "1.0.0"})))
        while not device.work("com.a", "installs"):
            await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        (tmp_path / "work" / "com.a" / "ready").touch()

        again = Device(tmp_path, cloud)
        await again.deployer.start_deployed()
        outcome = await again.deployer.run(deployment({"com.a": "1.0.0"}))

        assert outcome.status == "SUCCEEDED"
        assert again.work("com.a", "installs") == "x\nx\n"
        await again.supervisor.stop_all()

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"configurationArn": "arn:aws:greengrass:x"}, "configurationArn"),
        ({"components": []}, "components must be an object"),
        ({"components": {"../x": {"version": "1.0.0"}}}, "not a component name"),
        ({"components": {"a": {"version": "../1"}}}, "semantic version"),
        ({"components": {"a": {"version": "1.0.0", "configurationUpdate": {"merge": "text"}}}}, "merge must be"),
        ({"components": {"a": {"version": "1.0.0", "configurationUpdate": {"reset": [1]}}}}, "reset must be"),
        ({"creationTimestamp": "now"}, "creationTimestamp"),
        ({"deploymentName": "x" * 40_000}, "at most 31744 bytes"),
    ],
)
def test_a_malformed_document_is_refused_with_the_field(changes: dict[str, object], reason: str) -> None:
    arn = "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/g:1"
    document = {"deploymentId": "d", "configurationArn": arn, "creationTimestamp": 1, "components": {}}

    with pytest.raises(DeploymentError, match=reason):
        parse_document({**document, **changes})


def test_dependents_of_a_changed_hard_dependency_are_started_anew_and_others_are_not(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        soft = {"com.base": {"DependencyType": "SOFT"}}
        for version in ("1.0.0", "1.1.0"):
            cloud.add("com.base", version, steps=FOREVER)
        cloud.add("com.middle", steps=FOREVER, dependencies={"com.base": {}})
        cloud.add("com.top", steps=FOREVER, dependencies={"com.middle": {}})
        cloud.add("com.beside", steps=FOREVER, dependencies=soft)
        wanted = {"com.base": "1.0.0", "com.top": "1.0.0", "com.beside": "1.0.0"}
        await device.deployer.run(deployment(wanted))

        await device.deployer.run(deployment({**wanted, "com.base": "1.1.0"}, created=2))

        starts = {name: len(device.work(name, "pids").split()) for name in device.supervisor.components}
        assert starts == {"com.base": 2, "com.middle": 2, "com.top": 2, "com.beside": 1}

    run(tmp_path, scenario)


def test_dependencies_of_a_version_that_was_given_up_are_not_installed(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.extra", steps=FOREVER)
        cloud.add("com.base", "1.5.0", steps=FOREVER)
        cloud.add("com.base", "2.0.0", steps=FOREVER, dependencies={"com.extra": {}})
        cloud.add("com.any", steps=FOREVER, dependencies={"com.base": {"VersionRequirement": ">=1.0.0"}})
        cloud.add("com.old", steps=FOREVER, dependencies={"com.base": {"VersionRequirement": ">=1.0.0 <2.0.0"}})

        # what is named last is looked at first
        outcome = await device.deployer.run(deployment({"com.old": "1.0.0", "com.any": "1.0.0"}))

        assert outcome.status == "SUCCEEDED"
        assert "com.extra" in cloud.resolved
        assert device.deployer.deployed.components == {"com.base": "1.5.0", "com.old": "1.0.0", "com.any": "1.0.0"}

    run(tmp_path, scenario)


def test_a_broken_hard_dependency_fails_the_deployment_at_once(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.base", steps={"startup": "echo gone; exit 4"})
        cloud.add("com.top", steps=FOREVER, dependencies={"com.base": {}})
        began = time.monotonic()

        outcome = await device.deployer.run(deployment({"com.top": "1.0.0"}))

        assert (outcome.detail, outcome.kind) == ("FAILED_ROLLBACK_COMPLETE", "COMPONENT_BROKEN")
        assert "com.base 1.0.0: the startup step exited with 4, its last output was: gone" in outcome.cause
        assert time.monotonic() - began < 60
        assert device.work("com.top", "pids") == ""

    run(tmp_path, scenario, CLASSIC)


def test_a_rollback_stops_what_the_failed_deployment_has_started(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps=FOREVER)
        cloud.add("com.new", steps=FOREVER)
        cloud.add("com.bad", steps={"run": "exit 1"}, dependencies={"com.new": {"DependencyType": "SOFT"}})
        await device.deployer.run(deployment({"com.a": "1.0.0"}))

        await device.deployer.run(deployment({"com.a": "1.0.0", "com.bad": "1.0.0"}, created=2))

        assert set(device.supervisor.components) == {"com.a"}
        assert len(device.work("com.a", "pids").split()) == 1
        assert not device.layout.recipe("com.new", "1.0.0").exists()

    run(tmp_path, scenario, CLASSIC)


@pytest.mark.parametrize(
    ("statuses", "renewals"),
    [
        ([(403, "AccessDenied")], [False, True]),
        ([(400, "<Error><Code>ExpiredToken</Code></Error>")], [False, True]),
        ([(503, "SlowDown")], [False, False]),
    ],
)
def test_refused_credentials_are_renewed_and_others_are_kept(
    tmp_path: Path, statuses: list[tuple[int, str]], renewals: list[bool]
) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        artifact = cloud.add_zip("k/app.zip", {"x": ""})
        cloud.add("com.a", steps=FOREVER, artifacts=[artifact])
        cloud.answers = list(statuses)

        outcome = await device.deployer.run(deployment({"com.a": "1.0.0"}))

        assert outcome.status == "SUCCEEDED", outcome.cause
        assert cloud.renewals == renewals

    run(tmp_path, scenario, CLASSIC)
