"""The HTTP CONNECT proxy by which a device reaches AWS's host names at the twin's ports."""

from __future__ import annotations

import asyncio
import re

from twin.cloud.iot.http_message import HttpError, read_head
from twin.cloud.iot.listener import Serve
from twin.cloud.iot.splice import splice

IDLE_LIMIT_S = 1800.0
"""One and a half times the longest MQTT keep-alive that AWS IoT takes (1200 s): a client silent for longer is gone."""

_TARGET = re.compile(r"([a-z0-9.-]+)\.amazonaws\.com:(\d{1,5})")


def connect_proxy(ports: dict[int, int]) -> Serve:
    """The handler of a connection to the proxy.

    Args:
        ports: Port that a client asks for → port of the twin; every other one is refused.
    """
    offered = ", ".join(map(str, sorted(ports)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if head.method != "CONNECT":
            raise HttpError(405, f"method must be CONNECT, got {head.method[:20]}")
        match = _TARGET.fullmatch(head.target.lower())
        port = ports.get(int(match[2])) if match else None
        if port is None:
            raise HttpError(403, f"target must be *.amazonaws.com with port {offered}, got {head.target[:200]}")
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        await splice(reader, writer, port, opening=established, idle_limit_s=IDLE_LIMIT_S)

    return serve
