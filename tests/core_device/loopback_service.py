"""An IPC socket with the device's own service behind it, and a loop in the cloud's place; also runs as a program."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from paho.mqtt.client import topic_matches_sub

from twin.core_device.cloud.connection import Connection
from twin.core_device.components.configuration_store import ConfigurationStore
from twin.core_device.components.process import Tokens
from twin.core_device.dialect import DIALECTS, Dialect
from twin.core_device.ipc.operations import IpcLimits
from twin.core_device.ipc.server import IpcServer
from twin.core_device.ipc.service import IpcService

PROBE, OTHER = "com.example.IpcProbe", "com.example.Other"


def _policy(operations: list[str], resources: list[str]) -> dict[str, Any]:
    return {"policyDescription": "d", "operations": operations, "resources": resources}


DEFAULTS: dict[str, Any] = {
    "greeting": "hello",
    "number": 42,
    "flt": 1.5,
    "flag": True,
    "nothing": None,
    "list": [1, "two", 3.5],
    "nested": {"a": {"b": {"c": "deep"}}},
    "accessControl": {
        "aws.greengrass.ipc.pubsub": {
            "p1": _policy(
                ["aws.greengrass#PublishToTopic", "aws.greengrass#SubscribeToTopic"],
                ["probe/*", "exact/topic", "mq/+/x", "esc/${*}/x"],
            ),
            "p2": _policy(["*"], ["star/op"]),
            "p3": _policy(["aws.greengrass#PublishToTopic"], ["pubonly"]),
        },
        "aws.greengrass.ipc.mqttproxy": {
            "m1": _policy(
                ["aws.greengrass#PublishToIoTCore", "aws.greengrass#SubscribeToIoTCore"],
                ["probe/iot/*", "one/+/two", "rest/#", "exact/iot", "lvl/+", "own/{iot:thingName}/out"],
            ),
            "m2": _policy(["*"], ["anyop"]),
        },
    },
}


class LoopbackCloud:
    """Delivers what is published to whoever subscribed: the part of `Connection` that the IPC uses."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, int, dict[str, Any]]] = []
        self._receivers: list[tuple[str, Callable[[str, bytes], None]]] = []

    async def deliver(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        self.publish(topic, payload, qos, properties)

    def publish(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        self.published.append((topic, payload, qos, dict(properties)))
        for topic_filter, receiver in list(self._receivers):
            if topic_matches_sub(topic_filter, topic):
                receiver(topic, payload)

    async def subscribe(
        self, topic_filter: str, qos: int, receiver: Callable[[str, bytes], None]
    ) -> Callable[[], None]:
        entry = (topic_filter, receiver)
        self._receivers.append(entry)
        return lambda: self._receivers.remove(entry)


class LoopbackService:
    """The service, its tokens by component, and what stands in for the cloud."""

    def __init__(self, folder: Path, thing_name: str | None = None) -> None:
        self.tokens = Tokens()
        self.cloud = LoopbackCloud()
        self.store = ConfigurationStore(folder / "configuration.json")
        for component in (PROBE, OTHER):
            self.store.merge(component, (), DEFAULTS, 0)
        self.store.merge("aws.greengrass.NucleusLite", (), {"awsRegion": "eu-west-1"}, 0)
        cloud = cast(Connection, self.cloud)
        self.service = IpcService(self.tokens, self.store, self.store.save, cloud, {}, thing_name)


@contextlib.asynccontextmanager
async def serve(
    folder: Path, limits: IpcLimits | None = None, thing_name: str | None = None
) -> AsyncIterator[LoopbackService]:
    """Serve at `<folder>/ipc.socket` for the length of the context."""
    loopback = LoopbackService(folder, thing_name)
    server = IpcServer(loopback.service, limits)
    await server.start(folder / "ipc.socket")
    try:
        yield loopback
    finally:
        await server.stop()


async def _main(folder: Path, dialect: Dialect) -> None:
    async with serve(folder, dialect.ipc, "press-7" if dialect.fills_policies else None) as loopback:
        sys.stdout.write(f"{loopback.tokens.of(PROBE)} {loopback.tokens.of(OTHER)}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), DIALECTS[sys.argv[2]]))
