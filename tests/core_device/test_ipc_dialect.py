"""What components may ask of the IPC: everything by the classic nucleus' limits, less by nucleus lite's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("awsiot", reason="awsiotsdk is part of the checks' requirements")

import awsiot.greengrasscoreipc.model as model
from awsiot.eventstreamrpc import MessageAmendment
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

HERE = Path(__file__).parent


@contextmanager
def device(dialect: str) -> Iterator[Callable[..., Any]]:
    """The IPC of a device; makes clients of its probe component, or with another token."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    with ExitStack() as stack:
        # The path of a socket has at most 107 bytes; below `tmp_path` a long user name makes it longer.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ew-")))
        command = [sys.executable, str(HERE / "loopback_service.py"), str(folder), dialect]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        assert process.stdout
        token = process.stdout.readline().split()[0]

        def client(own_token: str = token) -> Any:
            connection = connect(ipc_socket=str(folder / "ipc.socket"), authtoken=own_token, timeout=30)
            made = GreengrassCoreIPCClientV2(connection, executor=None)
            stack.callback(end, made)
            return made

        yield client


def end(client: Any) -> None:
    with suppress(Exception):  # a client whose connection was ended says so again
        client.close().result(30)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"leaf": 1}
    for _ in range(levels):
        value = {"a": value}
    return value


def publish_a_large_payload(client: Callable[[], Any]) -> None:
    client().publish_to_iot_core(topic_name="exact/iot", qos="1", payload=b"x" * 6_500)


def publish_a_large_local_message(client: Callable[[], Any]) -> None:
    message = model.PublishMessage(binary_message=model.BinaryMessage(message=b"x" * 7_500))
    client().publish_to_topic(topic="exact/topic", publish_message=message)


def publish_on_the_things_own_topic(client: Callable[[], Any]) -> None:
    client().publish_to_iot_core(topic_name="own/press-7/out", qos="1", payload=b"")


def publish_on_another_things_topic(client: Callable[[], Any]) -> None:
    client().publish_to_iot_core(topic_name="own/press-8/out", qos="1", payload=b"")


def update_deeply_nested(client: Callable[[], Any]) -> None:
    client().update_configuration(key_path=["deep"], timestamp=datetime.now(UTC), value_to_merge=nested(15))


def update_with_a_long_value(client: Callable[[], Any]) -> None:
    one = client()
    one.update_configuration(key_path=["fits"], timestamp=datetime.now(UTC), value_to_merge={"a": "x" * 1_022})
    one.update_configuration(key_path=["long"], timestamp=datetime.now(UTC), value_to_merge={"a": "x" * 1_023})


def update_on_the_13th_level(client: Callable[[], Any]) -> None:
    one, path = client(), [str(level) for level in range(11)]
    one.update_configuration(key_path=path, timestamp=datetime.now(UTC), value_to_merge={"a": 1})
    one.update_configuration(key_path=path, timestamp=datetime.now(UTC), value_to_merge={"b": {"c": 1}})


def publish_a_long_list(client: Callable[[], Any]) -> None:
    message = model.PublishMessage(json_message=model.JsonMessage(message=[1] * 101))
    client().publish_to_topic(topic="exact/topic", publish_message=message)


def send_a_ping(client: Callable[[], Any]) -> None:
    one = client()
    one.client._connection.send_ping(MessageAmendment(payload=b"beat"))
    time.sleep(0.5)
    one.get_configuration(key_path=["number"])


def open_many_clients(client: Callable[[], Any]) -> None:
    for _ in range(51):
        client().get_configuration(key_path=["number"])


def open_many_subscriptions(client: Callable[[], Any]) -> None:
    one = client()
    for number in range(101):
        one.subscribe_to_topic(topic=f"probe/{number}", on_stream_event=lambda _event: None)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (publish_a_large_payload, "at most 6300 bytes"),
        (publish_a_large_local_message, ""),  # the connection is ended, as by the real one
        (publish_on_the_things_own_topic, "not authorized to perform"),
        (update_deeply_nested, "at most 16 levels"),
        (update_with_a_long_value, "long/a must be at most 1024 bytes as encoded JSON on this nucleus, got 1025"),
        (update_on_the_13th_level, "at most 12 levels on this nucleus, got 13"),
        (publish_a_long_list, "at most 100 items"),
        (send_a_ping, ""),  # the connection is ended, as by the real one
        (open_many_clients, ""),  # the 51st finds no one to answer
        (open_many_subscriptions, "at most 100 subscriptions"),
    ],
)
def test_classic_does_what_lite_refuses(ask: Callable[[Callable[[], Any]], None], reason: str) -> None:
    with device("classic") as client:
        ask(client)

    with device("lite") as client, pytest.raises(Exception) as refused:
        ask(client)

    assert reason in str(getattr(refused.value, "message", refused.value))


def test_the_devices_name_in_access_control_covers_no_other_device() -> None:
    with device("classic") as client, pytest.raises(model.UnauthorizedError):
        publish_on_another_things_topic(client)


@pytest.mark.parametrize(("dialect", "own_messages"), [("classic", 0), ("lite", 1)])
def test_only_classic_leaves_out_a_component_s_own_messages(dialect: str, own_messages: int) -> None:
    heard: list[str] = []
    message = model.PublishMessage(json_message=model.JsonMessage(message={}))
    with device(dialect) as client:
        one = client()
        for mode, name in (("RECEIVE_MESSAGES_FROM_OTHERS", "others"), ("RECEIVE_ALL_MESSAGES", "all")):
            one.subscribe_to_topic(
                topic="exact/topic", receive_mode=mode, on_stream_event=lambda _, name=name: heard.append(name)
            )

        one.publish_to_topic(topic="exact/topic", publish_message=message)
        deadline = time.monotonic() + 30
        while len(heard) < own_messages + 1:
            assert time.monotonic() < deadline, heard
            time.sleep(0.02)
        time.sleep(0.3)

    assert (heard.count("others"), heard.count("all")) == (own_messages, 1)


@pytest.mark.parametrize(("dialect", "reason"), [("classic", "access denied"), ("lite", "AWS_IO_SOCKET_CLOSED")])
def test_a_wrong_token_is_turned_away(dialect: str, reason: str) -> None:
    with device(dialect) as client, pytest.raises(Exception, match=reason):
        client("0" * 32)


@pytest.mark.parametrize("dialect", ["classic", "lite"])
def test_the_level_before_a_last_wildcard_is_not_allowed_by_it(dialect: str) -> None:
    with device(dialect) as client:
        one = client()
        one.publish_to_iot_core(topic_name="rest/x", qos="1", payload=b"")

        with pytest.raises(model.UnauthorizedError):
            one.publish_to_iot_core(topic_name="rest", qos="1", payload=b"")
