"""Subscriptions of a client that is gone, by the real SDK on a real socket: nothing of them stays with the device."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from awsiot import greengrasscoreipc
from awsiot.greengrasscoreipc.client import SubscribeToIoTCoreStreamHandler
from awsiot.greengrasscoreipc.model import QOS, SubscribeToIoTCoreRequest

from tests.edge.local_device import REQUEST, TOKEN, LocalDevice, configuration


class SlowDevice(LocalDevice):
    """Takes its time to subscribe, as one does that waits for its broker."""

    def __init__(self, socket: Path) -> None:
        super().__init__(socket, configuration())
        self.asked, self.made = threading.Event(), threading.Event()
        self._go = asyncio.Event()

    def go_on(self) -> None:
        self._loop.call_soon_threadsafe(self._go.set)

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Callable[[str, bytes], None]) -> Any:
        self.asked.set()
        await asyncio.wait_for(self._go.wait(), 60)
        cancel = await super().subscribe_to_iot_core(topic, qos, deliver)
        self.made.set()
        return cancel


@pytest.mark.parametrize("leaves_early", [True, False])
def test_a_subscription_ends_with_its_stream_also_where_that_ends_before_it_is_made(
    tmp_path: Path, leaves_early: bool
) -> None:
    device = SlowDevice(tmp_path / "ipc.sock")
    with device:
        connection = greengrasscoreipc.connect(ipc_socket=str(device.socket), authtoken=TOKEN, timeout=30)
        operation = connection.new_subscribe_to_iot_core(SubscribeToIoTCoreStreamHandler())
        operation.activate(SubscribeToIoTCoreRequest(topic_name=REQUEST, qos=QOS.AT_LEAST_ONCE))
        assert device.asked.wait(30)
        if leaves_early:
            operation.close()
            time.sleep(0.5)  # until the device has been told
        device.go_on()
        assert device.made.wait(30)
        if not leaves_early:
            device.wait_for_subscription()
            operation.close()

        deadline = time.monotonic() + 30
        while device._topics[REQUEST]:
            assert time.monotonic() < deadline, "the device goes on delivering to a client that has left"
            time.sleep(0.02)
        connection.close().result(30)
