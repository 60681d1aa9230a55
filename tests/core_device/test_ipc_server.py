"""The end of the IPC's server, of its clients and of their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.core_device.loopback_service import PROBE, LoopbackService
from twin.core_device.ipc import server as ipc_server
from twin.core_device.ipc.eventstream import PRELUDE, TERMINATE_STREAM, MessageType, decode_message, decode_prelude
from twin.core_device.ipc.eventstream import encode_message as encode
from twin.core_device.ipc.operations import (
    OPERATIONS,
    Call,
    Cancel,
    InvalidRequestError,
    IpcError,
    IpcHandler,
    IpcLimits,
)
from twin.core_device.ipc.server import IpcServer


def test_a_client_that_is_connected_when_the_server_stops_is_disconnected_without_a_word(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []

    async def stop_beside_a_client() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
        server = IpcServer(LoopbackService(tmp_path).service)
        await server.start(tmp_path / "ipc.socket")
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "ipc.socket")
            while not server._clients:
                await asyncio.sleep(0.01)
            await server.stop()
            rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(stop_beside_a_client()) == b""
    assert told == []


class SlowCloud(IpcHandler):
    """Makes a subscription only when it is told to, and notes what becomes of it."""

    def __init__(self) -> None:
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()
        self.ended: list[str] = []

    def component_of(self, token: str) -> str | None:
        return "com.a"

    def access_control(self, component: str) -> Any:
        policy = {"operations": ["*"], "resources": ["*"]}
        return {"aws.greengrass.ipc.mqttproxy": {"p": policy}}

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Any) -> Cancel:
        self.asked.set()
        await self.may_go_on.wait()
        return lambda: self.ended.append(topic)


async def subscribing(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client that has asked for a subscription on its first stream."""
    reader, writer = await asyncio.open_unix_connection(path)
    hello = b'{"authToken": "x"}'
    writer.write(encode(MessageType.CONNECT, headers=((":version", "0.1.0"),), payload=hello))
    await answer(reader)
    operation = (("operation", "aws.greengrass#SubscribeToIoTCore"),)
    writer.write(encode(MessageType.APPLICATION_MESSAGE, 0, 1, operation, b'{"topicName": "a/b", "qos": "1"}'))
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> str | None:
    prelude = await reader.readexactly(PRELUDE.size)
    total, headers_length = decode_prelude(prelude, 1 << 20)
    message = decode_message(prelude, headers_length, await reader.readexactly(total - PRELUDE.size))
    return message.text("service-model-type")


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_a_subscription_is_ended_when_its_client_has_left_while_it_was_made(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        cloud = SlowCloud()
        server = IpcServer(cloud)
        await server.start(tmp_path / "ipc.socket")
        async with asyncio.timeout(60):
            _, writer = await subscribing(tmp_path / "ipc.socket")
            await cloud.asked.wait()
            writer.write(encode(MessageType.APPLICATION_MESSAGE, TERMINATE_STREAM, 1))
            (client,) = server._clients.values()
            await until(lambda: not client._streams)
            cloud.may_go_on.set()
            await until(lambda: cloud.ended)
        writer.close()
        await server.stop()
        return cloud.ended

    assert asyncio.run(scenario()) == ["a/b"]


def test_the_subscriptions_of_a_client_end_with_it_and_their_places_are_free(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        cloud = SlowCloud()
        cloud.may_go_on.set()
        server = IpcServer(cloud, IpcLimits(subscriptions=1))
        await server.start(tmp_path / "ipc.socket")
        async with asyncio.timeout(60):
            for _ in range(2):
                cloud.ended.clear()
                reader, writer = await subscribing(tmp_path / "ipc.socket")
                assert await answer(reader) == "aws.greengrass#SubscribeToIoTCoreResponse"
                writer.close()
                await until(lambda: cloud.ended)
        await server.stop()
        return cloud.ended

    assert asyncio.run(scenario()) == ["a/b"]


@pytest.mark.parametrize("daemon", ["config", "pubsub"])
def test_a_daemon_that_starts_anew_forgets_its_subscribers_and_no_other_daemon_s(tmp_path: Path, daemon: str) -> None:
    heard: list[str] = []
    loopback = LoopbackService(tmp_path)
    service = loopback.service

    def subscribe(name: str) -> Cancel:
        if daemon == "config":
            return service.subscribe_to_configuration_update(PROBE, [], lambda *_: heard.append(name))
        return service.subscribe_to_topic(PROBE, "a/b", False, lambda *_: heard.append(name))

    def tell() -> None:
        loopback.store.merge(PROBE, (), {"number": len(heard)}, 1)
        service.publish_to_topic(PROBE, "a/b", b"")

    cancel = subscribe("old")
    service.forget("pubsub" if daemon == "config" else "config")
    tell()
    service.forget(daemon)
    tell()
    cancel()
    again = subscribe("new")
    loopback.store.merge(PROBE, (), {"number": -1}, 1)
    service.publish_to_topic(PROBE, "a/b", b"")
    again()
    tell()

    assert heard == ["old", "new"]


def test_forgotten_subscriptions_end_in_silence_and_new_ones_work(tmp_path: Path) -> None:
    async def scenario() -> list[str]:
        heard: list[str] = []
        loopback = LoopbackService(tmp_path)
        service, cloud = loopback.service, loopback.cloud
        cancel = await service.subscribe_to_iot_core("a", 1, lambda _topic, _payload: heard.append("old"))
        service.forget("mqtt")
        cloud.publish("a", b"", 1, {})
        cancel()
        again = await service.subscribe_to_iot_core("a", 1, lambda _topic, _payload: heard.append("new"))
        cloud.publish("a", b"", 1, {})
        again()
        again()
        cloud.publish("a", b"", 1, {})
        return heard

    assert asyncio.run(scenario()) == ["new"]


@pytest.mark.parametrize(
    ("operation", "request_", "code"),
    [
        ("UpdateConfiguration", {"valueToMerge": {"number": 2}, "timestamp": 1}, "FailedUpdateConditionCheckError"),
        ("UpdateConfiguration", {"valueToMerge": 2, "timestamp": 2e9}, "InvalidArgumentsError"),
        ("PublishToIoTCore", {"topicName": "probe/iot/x", "qos": "2", "payload": ""}, "ServiceError"),
        ("PublishToIoTCore", {"topicName": "probe/iot/x", "qos": "1", "payload": "A" * 8404}, "ServiceError"),
        ("PublishToTopic", {"topic": "probe/+", "publishMessage": {"jsonMessage": {"message": 1}}}, "ServiceError"),
        ("PublishToTopic", {"topic": "", "publishMessage": {"jsonMessage": {"message": 1}}}, "ServiceError"),
        ("SubscribeToTopic", {"topic": "probe/x", "receiveMode": "SOME"}, "InvalidArgumentsError"),
        ("SubscribeToTopic", {"topic": ""}, "InvalidArgumentsError"),
        ("UpdateState", {"state": "NEW"}, "ServiceError"),
        ("ValidateAuthorizationToken", {"token": "x"}, "ServiceError"),
    ],
)
def test_the_device_is_stricter_than_lite_or_says_more(
    tmp_path: Path, operation: str, request_: dict[str, Any], code: str
) -> None:
    async def ask() -> tuple[str, str]:
        loopback = LoopbackService(tmp_path)
        # What the component itself has set is newer than the request's timestamp.
        loopback.store.merge(PROBE, ("number",), 1, 1_700_000_000_000)
        served = OPERATIONS.get(operation, ipc_server._UNSUPPORTED)
        call = Call(loopback.service, PROBE, operation, request_, lambda _event: None, IpcLimits())
        try:
            await served.perform(call)
        except IpcError as exc:
            return exc.code, exc.message
        except InvalidRequestError as exc:
            return served.invalid_request, str(exc)
        return "accepted", ""

    found, message = asyncio.run(ask())

    assert found == code
    assert message
