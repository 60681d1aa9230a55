"""What works on the classic nucleus and fails on nucleus lite, each by a component that does it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.core_device import offline_cloud
from tests.core_device.offline_cloud import Device, OfflineCloud, deployment
from tests.core_device.test_deployment import run
from twin.core_device.deployment.jobs import DeploymentWorker, Job, JobQueue
from twin.core_device.dialect import CLASSIC, LITE, Dialect

FOREVER = "echo ran > ran; sleep 600"
CARET = {"VersionRequirement": "^1.0.0"}
SOFT = {"VersionRequirement": ">=1.0.0 <2.0.0", "DependencyType": "SOFT"}
THINGS_TOPIC = "plant/{iot:thingName}/out"
HARD = {"VersionRequirement": ">=1.0.0 <2.0.0"}


def ran(device: Device) -> bool:
    return "ran" in device.work("com.a", "ran")


@dataclass
class Quirk:
    """A component, how one sees that it worked, and what lite says of it."""

    reason: str
    parts: dict[str, Any]
    entry: dict[str, Any] = field(default_factory=dict)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    worked: Callable[[Device], bool] = ran
    stable_s: float = offline_cloud.QUICK.stable_s


def step(script: str, **more: Any) -> dict[str, Any]:
    return {"steps": {"run": {"Script": script, **more}}}


def many(count: int) -> list[str]:
    return [f"com.part{number}" for number in range(count)]


def long_names(count: int) -> list[str]:
    return [f"com.{number:050}" for number in range(count)]


def longest(parent: str) -> list[str]:
    """Names of 128 characters, as many as a unit has room for."""
    return [f"{parent}.{'x' * 126}"[:127] + str(number) for number in range(3)]


def large_policies() -> dict[str, Any]:
    topics = [[f"plant/{'x' * 180}/{policy}/{number}" for number in range(4)] for policy in range(6)]
    return {str(n): {"operations": ["aws.greengrass#PublishToIoTCore"], "resources": t} for n, t in enumerate(topics)}


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


QUIRKS = {
    "a manifest without runtime": Quirk("has no manifest", {**step(FOREVER), "platform": {"os": "linux"}}),
    "a pattern for the architecture": Quirk(
        "no regular expressions",
        {**step(FOREVER), "platform": {"os": "linux", "runtime": "*", "architecture": "/amd64|aarch64/"}},
    ),
    "a variable of another component": Quirk(
        "cut at character 6, before '{com.base:artifacts:path}",
        {**step("echo {com.base:artifacts:path} > ran; sleep 600"), "dependencies": {"com.base": HARD}},
        others={"com.base": step("sleep 600")},
        worked=lambda device: "com.base/1.0.0" in device.work("com.a", "ran"),
    ),
    "a shutdown step": Quirk("shutdown is never run", {"steps": {"run": FOREVER, "shutdown": "echo bye > bye"}}),
    "a startup step": Quirk(
        "the step startup fails when it ends with 0", {"steps": {"startup": "echo ran > ran", "run": "sleep 600"}}
    ),
    "a bootstrap step": Quirk(
        "the step bootstrap reboots the device",
        {"steps": {"bootstrap": "touch made; exit 100", "run": "test -e made && echo ran > ran; sleep 600"}},
    ),
    "names as long as Greengrass allows": Quirk(
        "fleet status must be at most 5000 bytes on nucleus lite, got about",
        {**step(FOREVER), "dependencies": dict.fromkeys(longest("top"), SOFT)},
        others={
            **{name: step("true") for number in range(3) for name in longest(f"below{number}")},
            **{name: step("true") for name in longest("below")},
            **{
                name: {**step("true"), "dependencies": dict.fromkeys(longest(f"below{number}"), SOFT)}
                for number, name in enumerate(longest("top"))
            },
            longest("below0")[0]: {**step("true"), "dependencies": dict.fromkeys(longest("below"), SOFT)},
        },
    ),
    "a recover step": Quirk(
        "recover is never run",
        {"steps": {"run": "test -e recovered && echo ran > ran && sleep 600", "recover": "touch recovered"}},
    ),
    "a Skipif": Quirk(
        "Skipif of the step install is not known",
        {"steps": {"install": {"Skipif": "onpath sh", "Script": "exit 1"}, "run": FOREVER}},
    ),
    "a shell variable in braces": Quirk("cut at character 8", step('echo "${PWD}" > ran; echo ran >> ran; sleep 600')),
    "a shell function": Quirk("cut at character 5", step("f() { echo ran > ran; }; f; sleep 600")),
    "JSON in a script": Quirk("cut at character 7", step("echo '{\"ran\": 1}' > ran; sleep 600")),
    "a variable of the configuration without its key": Quirk(
        "{configuration:/missing} is not in the component's configuration",
        step("echo 'ran {configuration:/missing}' > ran; sleep 600"),
        worked=lambda device: device.work("com.a", "ran") == "ran {configuration:/missing}\n",
    ),
    "an install step only": Quirk("never becomes healthy", {"steps": {"install": "echo ran > ran"}}),
    "a number in setenv": Quirk("setenv.N must be a string", step('echo "ran$N" > ran; sleep 600', Setenv={"N": 5})),
    "a space in setenv": Quirk("must be without spaces", step('echo "ran$S" > ran; sleep 600', Setenv={"S": "a b"})),
    "a quote in setenv": Quirk("must be without quotes", step('echo "ran$S" > ran; sleep 600', Setenv={"S": "it's"})),
    "a default value above 1 kB": Quirk(
        "DefaultConfiguration.long must be at most 1024 bytes as encoded JSON, got 1025",
        {**step(FOREVER), "defaults": {"long": "x" * 1023}},
    ),
    "a default value whose escapes are above 1 kB": Quirk(
        "DefaultConfiguration.long must be at most 1024 bytes as encoded JSON, got 1026",
        {**step(FOREVER), "defaults": {"long": '"' * 512}},
    ),
    "a default list above 1 kB": Quirk(
        "DefaultConfiguration.long must be at most 1024 bytes as encoded JSON, got 1025",
        {**step(FOREVER), "defaults": {"long": ["x" * 500, "x" * 518]}},
    ),
    "a default configuration of 13 levels": Quirk(
        "DefaultConfiguration must have at most 12 levels, got 13", {**step(FOREVER), "defaults": nested(13)}
    ),
    "a deployed configuration of 13 levels": Quirk(
        "merge must have at most 12 levels, got 13", step(FOREVER), entry={"merge": nested(13)}
    ),
    "a deployed value above 1 kB": Quirk(
        "merge.long must be at most 1024 bytes", step(FOREVER), entry={"merge": {"long": "x" * 1023}}
    ),
    "a recipe above 8 kB": Quirk(
        "a recipe must be at most 8192 bytes", {**step(FOREVER), "defaults": {str(n): "x" * 900 for n in range(10)}}
    ),
    "more than 255 keys in a document": Quirk(
        "at most 255 keys in all", step(FOREVER), entry={"merge": {f"k{n}": n for n in range(250)}}
    ),
    "more than 255 parts": Quirk(
        "a recipe must have at most 255 parts, two a key and one an item of a list",
        {**step(FOREVER), "defaults": {part: dict.fromkeys(map(str, range(60)), 1) for part in "ab"}},
    ),
    "65 keys in one object": Quirk(
        "DefaultConfiguration must have at most 64 keys in one object, got 65",
        {**step(FOREVER), "defaults": {"wide": dict.fromkeys(map(str, range(65)), 1)}},
    ),
    "the device's name in the access control": Quirk(
        "'plant/{iot:thingName}/out' is compared as it stands",
        {
            **step(FOREVER),
            "defaults": {"accessControl": {"aws.greengrass.ipc.mqttproxy": {"a": {"resources": [THINGS_TOPIC]}}}},
        },
    ),
    "a large access control": Quirk(
        "accessControl.aws.greengrass.ipc.mqttproxy must take at most 4096 bytes of memory",
        {**step(FOREVER), "defaults": {"accessControl": {"aws.greengrass.ipc.mqttproxy": large_policies()}}},
    ),
    "a description of two lines": Quirk(
        "ComponentDescription must be one plain line", {**step(FOREVER), "description": "one\nUser=root"}
    ),
    "a long systemd unit": Quirk(
        "its systemd unit must be at most 2048 bytes",
        {**step(FOREVER), "dependencies": dict.fromkeys(long_names(12), SOFT)},
        others=dict.fromkeys(long_names(12), step("true")),
    ),
    "20 components": Quirk(
        "at most 19 components on a device, those of all its groups, TokenExchangeService and 0 just removed counted, "
        "got 20",
        {**step(FOREVER), "dependencies": dict.fromkeys((*many(18), "aws.greengrass.TokenExchangeService"), SOFT)},
        others=dict.fromkeys(many(18), step("true")),
    ),
    "a caret range of what is resolved already": Quirk(
        "already resolved component com.base does not meet '^1.0.0' of com.top",
        {**step(FOREVER), "dependencies": {"com.top": HARD, "com.base": CARET}},
        others={"com.base": step("sleep 600"), "com.top": {**step("sleep 600"), "dependencies": {"com.base": CARET}}},
    ),
    "a HARD dependency that ends": Quirk(
        "stopped because its HARD dependency com.base has ended",
        {**step(FOREVER), "dependencies": {"com.base": HARD}},
        others={"com.base": step("sleep 0.2")},
        stable_s=2.0,  # on a busy machine, too, it ends before the other one is taken to be well
    ),
}


async def deploy(device: Device, path: Path, dialect: Dialect, quirk: Quirk) -> tuple[str, dict[str, str]]:
    """Through the worker, as a job of the cloud; returns the job's last status and its details."""
    entry = {"version": "1.0.0", **({"configurationUpdate": quirk.entry} if quirk.entry else {})}
    document = {
        "deploymentId": "d",
        "configurationArn": "arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/g:1",
        "creationTimestamp": 1,
        "components": {"com.a": entry},
    }
    done: asyncio.Future[tuple[str, dict[str, str]]] = asyncio.get_running_loop().create_future()

    class Queue:
        async def report(self, _job: str, status: str, details: dict[str, str]) -> bool:
            if status != "IN_PROGRESS":
                done.set_result((status, details))
            return True

    worker = DeploymentWorker(path / "job.json", device.deployer, lambda _d, _o: None, dialect)
    worker.offer(Job("j", 1, "QUEUED", json.loads(json.dumps(document))))
    task = asyncio.create_task(worker.run(cast(JobQueue, Queue())))
    try:
        return await done
    finally:
        task.cancel()


@pytest.mark.parametrize("name", QUIRKS)
def test_works_on_classic_and_fails_on_lite_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    quirk = QUIRKS[name]
    monkeypatch.setattr(offline_cloud, "QUICK", replace(offline_cloud.QUICK, stable_s=quirk.stable_s))

    def scenario(dialect: Dialect) -> Callable[[Device, OfflineCloud], Any]:
        async def play(device: Device, cloud: OfflineCloud) -> None:
            for other, parts in {"com.a": quirk.parts, **quirk.others}.items():
                cloud.add(other, **parts)

            status, details = await deploy(device, tmp_path / dialect.name, dialect, quirk)

            if dialect is CLASSIC:
                assert status == "SUCCEEDED", details
                assert quirk.worked(device)
            else:
                assert status == "FAILED"
                assert quirk.reason in details["deployment-failure-cause"]

        return play

    run(tmp_path / "classic", scenario(CLASSIC), CLASSIC)
    run(tmp_path / "lite", scenario(LITE), LITE)


def test_a_shutdown_step_runs_when_its_component_is_stopped(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        quirk = QUIRKS["a shutdown step"]
        cloud.add("com.a", **quirk.parts)
        await deploy(device, tmp_path, CLASSIC, quirk)

        await device.supervisor.stop_all()

        assert device.work("com.a", "bye") == "bye\n"

    run(tmp_path / "classic", scenario, CLASSIC)


def test_every_broken_rule_of_a_recipe_is_told_at_once(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.a", steps={"run": "echo ${HOME}", "shutdown": "true"}, defaults={"long": "x" * 2000})

        _status, details = await deploy(device, tmp_path, LITE, Quirk("", {}))

        for part in ("com.a 1.0.0", "never run", "is cut at", "1024 bytes as encoded JSON, got 2002"):
            assert part in details["deployment-failure-cause"]

    run(tmp_path / "lite", scenario)


def test_lite_takes_what_just_fits(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        fits = {"plain": "x" * 1022, "wide": "ä" * 511, "list": ["x" * 500, "x" * 517], "deep": nested(11)}
        cloud.add("com.a", **step(FOREVER), defaults=fits)

        status, details = await deploy(device, tmp_path, LITE, Quirk("", {}, entry={"merge": fits}))

        assert status == "SUCCEEDED", details
        assert device.store.get("com.a") == fits

    run(tmp_path / "lite", scenario)


def test_lite_has_room_for_19_components_and_those_just_removed_count(tmp_path: Path) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        for name in (*many(19), "com.a"):
            cloud.add(name, **step("true"))
        cloud.add("com.b", **step("true"), dependencies={"aws.greengrass.TokenExchangeService": SOFT})

        full = await device.deployer.run(deployment(dict.fromkeys((*many(17), "com.b"), "1.0.0")))
        exchanged = await device.deployer.run(deployment(dict.fromkeys((*many(18), "com.a"), "1.0.0"), created=2))
        fewer = await device.deployer.run(deployment(dict.fromkeys(many(18), "1.0.0"), created=3))

        assert (full.status, exchanged.status, fewer.status) == ("SUCCEEDED", "FAILED", "SUCCEEDED")
        assert "1 just removed counted, got 20" in exchanged.cause

    run(tmp_path / "lite", scenario)


@pytest.mark.parametrize("requirement", ["^1.0.0", "~1.0", "=1.0.0", "1.0.0"])
def test_lite_takes_any_range_of_what_it_has_not_resolved_before(tmp_path: Path, requirement: str) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add("com.base", **step("true"))
        cloud.add("com.a", **step("true"), dependencies={"com.base": {**SOFT, "VersionRequirement": requirement}})

        alone = await device.deployer.run(deployment({"com.a": "1.0.0"}))
        named = await device.deployer.run(deployment({"com.a": "1.0.0", "com.base": "1.0.0"}, created=2))

        assert (alone.status, named.status) == ("SUCCEEDED", "FAILED"), alone.cause
        assert "already resolved component com.base does not meet" in named.cause

    run(tmp_path / "lite", scenario)


@pytest.mark.parametrize("name", ["core.ggipcd", "com.a.install", "com.a.bootstrap"])
def test_lite_refuses_names_of_other_units(tmp_path: Path, name: str) -> None:
    async def scenario(device: Device, cloud: OfflineCloud) -> None:
        cloud.add(name, **step("true"))

        outcome = await device.deployer.run(deployment({name: "1.0.0"}))

        assert (outcome.detail, outcome.kind) == ("FAILED_NO_STATE_CHANGE", "NUCLEUS_LITE_LIMIT")
        assert "the component's name must be one of a systemd unit" in outcome.cause

    run(tmp_path / "lite", scenario)
