"""What components may ask of the IPC: everything by the classic nucleus' limits, less by nucleus lite's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("awsiot", reason="awsiotsdk is part of the checks' requirements")

import awsiot.greengrasscoreipc.model as model
from awsiot.greengrasscoreipc import connect
from awsiot.greengrasscoreipc.clientv2 import GreengrassCoreIPCClientV2

HERE = Path(__file__).parent


@contextmanager
def device(folder: Path, dialect: str) -> Iterator[Callable[[], Any]]:
    """The IPC of a device; makes clients of its probe component."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
    command = [sys.executable, str(HERE / "loopback_service.py"), str(folder), dialect]
    with ExitStack() as stack:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        stack.callback(process.wait, 10)
        stack.callback(process.terminate)
        assert process.stdout
        token = process.stdout.readline().split()[0]

        def client() -> Any:
            connection = connect(ipc_socket=str(folder / "ipc.socket"), authtoken=token, timeout=5)
            made = GreengrassCoreIPCClientV2(connection, executor=None)
            stack.callback(end, made)
            return made

        yield client


def end(client: Any) -> None:
    with suppress(Exception):  # a client whose connection was ended says so again
        client.close().result(5)


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


def update_deeply_nested(client: Callable[[], Any]) -> None:
    client().update_configuration(key_path=["deep"], timestamp=datetime.now(UTC), value_to_merge=nested(15))


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
        (update_deeply_nested, "at most 14 levels"),
        (open_many_clients, ""),  # the 51st finds no one to answer
        (open_many_subscriptions, "at most 100 subscriptions"),
    ],
)
def test_classic_does_what_lite_refuses(tmp_path: Path, ask: Callable[[Callable[[], Any]], None], reason: str) -> None:
    with device(tmp_path / "classic", "classic") as client:
        ask(client)

    with device(tmp_path / "lite", "lite") as client, pytest.raises(Exception) as refused:
        ask(client)

    assert reason in str(getattr(refused.value, "message", refused.value))
