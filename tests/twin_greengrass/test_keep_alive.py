"""Clients that fall silent are disconnected, others are not."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest
from ministack.services import iot

from twin.cloud.iot import connections
from twin.cloud.iot.connections import CONNECT_LIMIT_S, keep_alive_s
from twin.cloud.ministack.patches import LEDGER

CONNECT = bytes([0x10, 20, 0, 4]) + b"MQTT" + bytes([4, 2])


@pytest.mark.parametrize(("asked_s", "expected_s"), [(30, 30), (300, 300), (1, 30), (0, 1_200), (5_000, 1_200)])
def test_the_interval_is_held_within_iot_cores_limits(asked_s: int, expected_s: int) -> None:
    assert keep_alive_s(CONNECT + asked_s.to_bytes(2, "big")) == expected_s


@pytest.mark.parametrize(
    "head", [b"", b"\x10", CONNECT, CONNECT + b"\0", b"\x30\x05\0\x03abc", b"\x10\xff\xff\xff\xff"]
)
def test_other_bytes_have_no_interval(head: bytes) -> None:
    assert keep_alive_s(head) is None


class _Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


class _Writer:
    def __init__(self) -> None:
        self.transport = _Transport()

    def get_extra_info(self, _name: str) -> str:
        return "peer"


def test_a_silent_client_is_disconnected_and_one_that_speaks_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await iot._feed_session(None, await reader.read(100), 0)
        await ended.wait()

    async def feed(session: object, data: bytes, max_buffer: int) -> bool:
        return True

    monkeypatch.setattr(iot, "_mtls_serve_conn", serve)
    monkeypatch.setattr(iot, "_feed_session", feed)
    take_back = LEDGER.apply(connections.__name__)

    async def scenario() -> None:
        writers, tasks = [_Writer(), _Writer()], []
        for writer, data in zip(writers, (CONNECT + (60).to_bytes(2, "big"), b"\x30garbage"), strict=True):
            reader = asyncio.StreamReader()
            reader.feed_data(data)
            coroutine = iot._mtls_serve_conn(reader, cast(asyncio.StreamWriter, writer))
            tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(0.05)
        now = time.monotonic()

        connections.end_silent(now + CONNECT_LIMIT_S + 1)
        assert [writer.transport.aborted for writer in writers] == [False, True]

        connections.end_silent(now + 91)
        assert writers[0].transport.aborted

        ended.set()
        await asyncio.gather(*tasks)
        assert connections._clients == {}

    try:
        asyncio.run(scenario())
    finally:
        take_back()
