"""Answers whose streams the device leaves open, as nucleus lite does: what the SDK keeps for them must not pile up."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from edge_component.greengrass_ipc import GreengrassIpc, connect
from tests.edge.local_device import RESPONSE, LocalDevice, configuration
from twin.core_device.ipc.eventstream import TERMINATE_STREAM, Message
from twin.core_device.ipc.operations import IpcLimits
from twin.core_device.ipc.server import Client, IpcServer

CALLS = 2_000


class Device(LocalDevice):
    """A device that ends the streams of its answers, or leaves them open."""

    ends_answers = False

    def _new_server(self) -> IpcServer:
        return IpcServer(self, IpcLimits(ends_answers=self.ends_answers))


class EndingDevice(Device):
    ends_answers = True


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def connected(kind: type[Device], stack: ExitStack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> GreengrassIpc:
    device = stack.enter_context(kind(folder / "ipc.sock", configuration()))
    for name, value in device.environment().items():
        monkeypatch.setenv(name, value)
    client = connect(lambda: None)
    stack.callback(client.close)
    return client


def publish(client: GreengrassIpc, times: int) -> None:
    for _ in range(times):
        while not client.publish(RESPONSE, b"{}").wait(30):
            pass


def test_memory_does_not_grow_with_answers(stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connected(Device, stack, tmp_path, monkeypatch)
    process = psutil.Process()
    publish(client, CALLS // 4)
    before = process.memory_info().rss

    publish(client, CALLS)

    # 6 kB an answer without an end of its stream; device and answers are in this process, too.
    assert process.memory_info().rss - before < CALLS * 3_000


@pytest.mark.parametrize(("kind", "least", "most"), [(Device, 19, 20), (EndingDevice, 0, 0)])
def test_only_a_stream_that_is_left_open_is_ended(
    stack: ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Device], least: int, most: int
) -> None:
    ended: list[int] = []
    receive = Client._receive

    def note(client: Client, message: Message) -> None:
        if message.flags & TERMINATE_STREAM:
            ended.append(message.stream_id)
        receive(client, message)

    monkeypatch.setattr(Client, "_receive", note)
    client = connected(kind, stack, tmp_path, monkeypatch)

    publish(client, 20)
    client.report_running()

    assert least <= len(ended) <= most
    assert len(set(ended)) == len(ended)
