"""The IPC as AWS's own client sees it."""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("awsiot", reason="awsiotsdk is part of the checks' requirements")

import awsiot.greengrasscoreipc.model as model
from awsiot.eventstreamrpc import StreamClosedError
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    folder = tmp_path_factory.mktemp("ipc")
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "loopback_service.py"), str(folder), "lite"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout
    tokens = process.stdout.readline().split()
    yield folder / "ipc.socket", tokens
    process.terminate()
    process.wait(30)


@pytest.fixture
def client(server: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    path, tokens = server
    ipc = GreengrassCoreIPCClientV2(connect(ipc_socket=str(path), authtoken=tokens[0], timeout=30), executor=None)
    yield ipc
    ipc.close().result(30)


def test_reads_a_map_a_leaf_and_another_component(client: Any) -> None:
    other = client.get_configuration(component_name="aws.greengrass.NucleusLite", key_path=["awsRegion"])

    assert client.get_configuration(key_path=["nested"]).value == {"a": {"b": {"c": "deep"}}}
    assert client.get_configuration(key_path=["nested", "a", "b", "c"]).value == {"c": "deep"}
    assert other.value == {"awsRegion": "eu-west-1"}
    with pytest.raises(model.ResourceNotFoundError):
        client.get_configuration(key_path=["missing"])


def test_a_changed_leaf_is_announced_once_it_is_newer(client: Any) -> None:
    events: queue.Queue[Any] = queue.Queue()
    client.update_configuration(key_path=["own"], value_to_merge={"a": 1, "b": 1}, timestamp=datetime.now(UTC))
    _, subscription = client.subscribe_to_configuration_update(key_path=["own"], on_stream_event=events.put)

    client.update_configuration(key_path=["own"], value_to_merge={"a": 2, "b": 1}, timestamp=datetime.now(UTC))

    assert events.get(timeout=30).configuration_update_event.key_path == ["own", "a"]
    with pytest.raises(model.FailedUpdateConditionCheckError):
        client.update_configuration(
            key_path=["own"], value_to_merge={"a": 3}, timestamp=datetime(2020, 1, 1, tzinfo=UTC)
        )
    with pytest.raises(model.InvalidArgumentsError):
        client.update_configuration(key_path=["accessControl"], value_to_merge={}, timestamp=datetime.now(UTC))
    assert events.empty()
    subscription.close().result(30)


def test_messages_from_the_cloud_arrive_in_order(client: Any) -> None:
    events: queue.Queue[Any] = queue.Queue()
    _, subscription = client.subscribe_to_iot_core(topic_name="probe/iot/#", qos="1", on_stream_event=events.put)

    for number in range(50):
        client.publish_to_iot_core(topic_name="probe/iot/x", qos="1", payload=b"%d" % number)

    assert [int(events.get(timeout=30).message.payload) for _ in range(50)] == list(range(50))
    subscription.close().result(30)


def test_a_topic_outside_of_the_policies_is_refused(client: Any) -> None:
    with pytest.raises(model.UnauthorizedError) as error:
        client.publish_to_iot_core(topic_name="denied", qos="1", payload=b"")
    assert "not authorized to perform aws.greengrass.ipc.mqttproxy" in error.value.message
    with pytest.raises(model.UnauthorizedError):
        client.subscribe_to_topic(topic="pubonly", on_stream_event=print)


def test_a_local_message_keeps_a_large_integer(client: Any) -> None:
    events: queue.Queue[Any] = queue.Queue()
    message = model.PublishMessage(json_message=model.JsonMessage(message={"n": 2**53 + 1}))
    _, subscription = client.subscribe_to_topic(topic="probe/+", on_stream_event=events.put)

    client.publish_to_topic(topic="probe/a", publish_message=message)

    assert events.get(timeout=30).json_message.message == {"n": 2**53 + 1}
    subscription.close().result(30)


def _frame(body: bytes, total: int | None = None) -> bytes:
    lengths = struct.pack(">II", total or len(body) + 16, 0)
    start = lengths + struct.pack(">I", zlib.crc32(lengths)) + body
    return start + struct.pack(">I", zlib.crc32(start))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(12),
        _frame(b"", total=1 << 30),
        _frame(b"no headers"),
        bytes(range(255, 191, -1)),
    ],
)
def test_garbage_ends_its_own_connection_only(server: tuple[Path, list[str]], client: Any, garbage: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(30)
        raw.connect(str(server[0]))
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := raw.recv(4096):
            answer += chunk

    assert not answer or b"message" in answer
    assert client.get_configuration(key_path=["greeting"]).value == {"greeting": "hello"}


def test_a_message_above_the_limit_ends_the_connection(server: tuple[Path, list[str]]) -> None:
    connection = connect(ipc_socket=str(server[0]), authtoken=server[1][0], timeout=30)
    ipc = GreengrassCoreIPCClientV2(connection, executor=None)

    with pytest.raises(StreamClosedError):
        ipc.publish_to_iot_core(topic_name="probe/iot/x", qos="1", payload=json.dumps(["x" * 10_000]).encode())
