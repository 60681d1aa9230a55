"""MQTT clients that fall silent: MiniStack keeps them connected for ever, IoT Core drops them.

IoT Core waits one and a half keep-alive intervals, which it holds within 30 to 1,200 seconds, 1,200 for none (AWS IoT
Core quotas, MQTT keep-alive). A client that never says CONNECT is dropped as well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud.settings import Settings

logger = logging.getLogger("twin.iot")

SHORTEST_S, LONGEST_S = 30, 1_200
CONNECT_LIMIT_S = 10.0
_FACTOR = 1.5
_LOOK_S = 1.0
_HEAD_BYTES = 16  # of a CONNECT packet; the keep-alive interval is in it


class _Client:
    """What is known of a connection: when it last sent something, and how long it may be silent."""

    def __init__(self) -> None:
        self.head = b""
        self.limit_s = CONNECT_LIMIT_S
        self.heard_at = time.monotonic()

    def hear(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        if len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
            interval_s = keep_alive_s(self.head)
            if interval_s is not None:
                self.limit_s = _FACTOR * interval_s


def keep_alive_s(head: bytes) -> int | None:
    """The interval that a CONNECT packet asks for, held within IoT Core's limits.

    Args:
        head: The first bytes of the packet (MQTT 3.1.1 and 5.0, section 3.1).

    Returns:
        Seconds, or None if the bytes do not reach that far or are of another packet.
    """
    if not head or head[0] >> 4 != 1:
        return None
    at = 1
    while at < len(head) and head[at] & 0x80:
        at += 1
    at += 1
    name_bytes = int.from_bytes(head[at : at + 2], "big")
    at += 2 + name_bytes + 2  # the name, level and flags
    if len(head) < at + 2 or name_bytes > len("MQIsdp"):
        return None
    asked_s = int.from_bytes(head[at : at + 2], "big")
    return min(max(asked_s or LONGEST_S, SHORTEST_S), LONGEST_S)


_clients: dict[asyncio.StreamWriter, _Client] = {}
_of_this_task: ContextVar[_Client | None] = ContextVar("twin_iot_client", default=None)


@patch("services.iot._mtls_serve_conn", why="silent clients are disconnected", signature="async (reader, writer)")
async def _serve_connection(
    serve: Callable[..., Awaitable[None]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    client = _clients[writer] = _Client()
    _of_this_task.set(client)
    try:
        await serve(reader, writer)
    finally:
        del _clients[writer]


@patch(
    "services.iot._feed_session", why="silent clients are disconnected", signature="async (session, data, max_buffer)"
)
async def _feed_session(feed: Callable[..., Awaitable[Any]], session: Any, data: bytes, max_buffer: int) -> bool:
    client = _of_this_task.get()
    if client is not None:
        client.hear(data)
    return bool(await feed(session, data, max_buffer))


def end_silent(now: float) -> None:
    """End every connection that has been silent for too long; its session ends as if the network had failed.

    Args:
        now: The present time on the clock of `time.monotonic`.
    """
    for writer, client in list(_clients.items()):
        if now - client.heard_at > client.limit_s:
            peer = writer.get_extra_info("peername")
            logger.warning("MQTT: %s was silent for more than %.0f s and is disconnected", peer, client.limit_s)
            writer.transport.abort()


async def _look() -> None:
    end_silent(time.monotonic())


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Look every second."""
    register_periodic("MQTT keep-alive", _look, interval_s=_LOOK_S)
