"""What the device tells the cloud about itself, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from twin.core_device import health
from twin.core_device.cloud.connection import Connection
from twin.core_device.components.component import State
from twin.core_device.deployment.document import DeployedSet
from twin.core_device.errors import RequestRejectedError
from twin.core_device.health import FleetStatus


class Cloud:
    """A connection that notes what is published."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.away = False
        self.refused = 0
        self.connect: Callable[[], None] = lambda: None

    def on_connected(self, listener: Callable[[], None]) -> None:
        self.connect = listener

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        if self.away:
            self.refused += 1
            raise RequestRejectedError("not connected")
        assert (topic, qos) == ("$aws/things/thing-1/greengrassv2/health/json", 0)
        self.messages.append(json.loads(payload))

    def triggers(self) -> list[tuple[str, str]]:
        return [(message["messageType"], message["trigger"]) for message in self.messages]


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def component(state: State, failure: str = "") -> Any:
    return SimpleNamespace(recipe=SimpleNamespace(version="1.0.0"), state=state, failure=failure)


def run(
    monkeypatch: pytest.MonkeyPatch,
    components: Mapping[str, Any],
    scenario: Callable[[Cloud, FleetStatus, dict[str, bool]], Awaitable[None]],
) -> Cloud:
    monkeypatch.setattr(health, "_SETTLE_S", 0.05)
    cloud, busy = Cloud(), {"busy": False}

    async def main() -> None:
        connection = cast(Connection, cloud)
        status = FleetStatus(connection, "thing-1", components, DeployedSet, lambda: busy["busy"])
        async with asyncio.timeout(60):
            await scenario(cloud, status, busy)

    asyncio.run(main())
    return cloud


def test_the_first_connect_is_a_launch_and_each_later_one_a_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cloud: Cloud, status: FleetStatus, busy: dict[str, bool]) -> None:
        cloud.connect()
        cloud.connect()
        cloud.connect()

    cloud = run(monkeypatch, {"com.a": component(State.RUNNING)}, scenario)

    assert cloud.triggers() == [("COMPLETE", "NUCLEUS_LAUNCH"), ("COMPLETE", "RECONNECT"), ("COMPLETE", "RECONNECT")]
    assert [message["sequenceNumber"] for message in cloud.messages] == [1, 2, 3]
    assert cloud.messages[0]["overallDeviceStatus"] == "HEALTHY"


def test_changes_of_a_moment_go_together_and_later_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    components = {"com.a": component(State.RUNNING), "com.b": component(State.BROKEN, "it broke")}

    async def scenario(cloud: Cloud, status: FleetStatus, busy: dict[str, bool]) -> None:
        for name in ("com.a", "com.b", "com.a"):
            status.component_changed(name)
        await until(lambda: len(cloud.messages) == 1)
        status.component_changed("com.a")
        await until(lambda: len(cloud.messages) == 2)
        await asyncio.sleep(0.2)

    cloud = run(monkeypatch, components, scenario)

    assert cloud.triggers() == [("PARTIAL", "COMPONENT_STATUS_CHANGE")] * 2
    assert [{each["componentName"] for each in message["components"]} for message in cloud.messages] == [
        {"com.a", "com.b"},
        {"com.a"},
    ]
    assert cloud.messages[1]["overallDeviceStatus"] == "UNHEALTHY"
    (broken,) = (each for each in cloud.messages[0]["components"] if each["componentName"] == "com.b")
    assert broken["statusDetails"]["statusReason"] == "it broke"


def test_a_recovered_component_has_no_reason_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cloud: Cloud, status: FleetStatus, busy: dict[str, bool]) -> None:
        cloud.connect()

    cloud = run(monkeypatch, {"com.a": component(State.RUNNING, "it failed once")}, scenario)

    assert "statusDetails" not in cloud.messages[0]["components"][0]
    assert cloud.messages[0]["overallDeviceStatus"] == "HEALTHY"


def test_while_a_deployment_is_under_way_changes_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cloud: Cloud, status: FleetStatus, busy: dict[str, bool]) -> None:
        busy["busy"] = True
        status.component_changed("com.a")
        await asyncio.sleep(0.2)

    assert run(monkeypatch, {"com.a": component(State.RUNNING)}, scenario).messages == []


def test_a_status_that_could_not_be_sent_does_not_keep_later_ones_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(cloud: Cloud, status: FleetStatus, busy: dict[str, bool]) -> None:
        cloud.away = True
        status.component_changed("com.a")
        await until(lambda: cloud.refused == 1)
        cloud.away = False
        cloud.connect()
        status.component_changed("com.a")
        await until(lambda: len(cloud.messages) == 2)

    cloud = run(monkeypatch, {"com.a": component(State.RUNNING)}, scenario)

    assert cloud.triggers() == [("COMPLETE", "NUCLEUS_LAUNCH"), ("PARTIAL", "COMPONENT_STATUS_CHANGE")]
