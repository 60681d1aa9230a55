"""A device that forgets in silence what was subscribed to, as nucleus lite does when its MQTT daemon starts anew."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_component.greengrass_ipc import GreengrassIpc, connect
from tests.edge.local_device import REQUEST, LocalDevice, configuration


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalDevice]:
    with LocalDevice(tmp_path / "ipc.sock", configuration()) as made:
        for name, value in made.environment().items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def ipc(device: LocalDevice) -> Iterator[GreengrassIpc]:
    del device
    client = connect(lambda: None)
    yield client
    client.close()


def test_a_renewed_subscription_hears_again_and_only_once(device: LocalDevice, ipc: GreengrassIpc) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    subscription = ipc.subscribe(REQUEST, heard.put)
    device.go_deaf()
    device.send(b"lost")

    ipc.renew(0)
    device.send(b"1")
    device.send(b"2")

    assert [heard.get(timeout=30), heard.get(timeout=30)] == [b"1", b"2"]
    ipc.renew(0)
    device.send(b"3")
    assert heard.get(timeout=30) == b"3"
    subscription.close()
    deadline = time.monotonic() + 30
    while device._topics[REQUEST]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ipc.renew(0)
    assert (device._topics[REQUEST], heard.qsize(), ipc.lost) == ([], 0, False)


def test_nothing_is_renewed_for_a_client_that_has_heard_something(device: LocalDevice, ipc: GreengrassIpc) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    ipc.subscribe(REQUEST, heard.put)
    device.send(b"1")
    heard.get(timeout=30)
    (before,) = device._topics[REQUEST]

    ipc.renew(600)
    assert device._topics[REQUEST] == [before]
    ipc.renew(0)
    assert device._topics[REQUEST][-1] != before


def test_a_subscription_that_cannot_be_renewed_stays(
    device: LocalDevice, ipc: GreengrassIpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: queue.Queue[bytes] = queue.Queue()
    ipc.subscribe(REQUEST, heard.put)

    async def refuse(*_: object) -> None:
        raise OSError("not connected")

    monkeypatch.setattr(device, "subscribe_to_iot_core", refuse)
    ipc.renew(0)
    device.send(b"1")

    assert heard.get(timeout=30) == b"1"
    assert not ipc.lost
