"""Two real connections joined: every byte passes, both ends close, silence has a limit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from twin.cloud.iot.front import splice
from twin.cloud.iot.listener import HttpError

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def joined(
    server: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], *, idle_limit_s: float = 60
) -> tuple[Streams, list[asyncio.Server]]:
    upstream = await asyncio.start_server(server, "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]

    async def front(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await splice(reader, writer, port, first=b"first ", opening=b"open ", idle_limit_s=idle_limit_s)
        writer.close()

    listener = await asyncio.start_server(front, "127.0.0.1", 0)
    streams = await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1])
    return streams, [upstream, listener]


def test_what_either_side_says_arrives_and_the_end_too() -> None:
    async def run() -> tuple[bytes, bytes]:
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.set_result(await reader.read())
            writer.write(b"x" * 1_000_000)
            await writer.drain()
            writer.close()

        (reader, writer), servers = await joined(server)
        writer.write(b"hello")
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        for each in servers:
            each.close()
        return await heard, answer

    said, answered = asyncio.run(run())
    assert said == b"first hello"
    assert answered == b"open " + b"x" * 1_000_000


def test_the_servers_end_ends_the_client() -> None:
    async def run() -> bytes:
        async def server(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"bye")
            writer.close()

        (reader, writer), servers = await joined(server)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        for each in servers:
            each.close()
        return answer

    assert asyncio.run(run()) == b"open bye"


def test_silence_ends_the_connection() -> None:
    async def run() -> float:
        async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await asyncio.sleep(0)
            writer.close()

        started = time.monotonic()
        (reader, writer), servers = await joined(server, idle_limit_s=0.2)
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        for each in servers:
            each.close()
        return time.monotonic() - started

    assert asyncio.run(run()) > 0.1


def test_a_server_that_does_not_answer_is_told() -> None:
    async def run() -> None:
        closed = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = closed.sockets[0].getsockname()[1]
        closed.close()
        await closed.wait_closed()
        await splice(asyncio.StreamReader(), None, port, idle_limit_s=1)  # type: ignore[arg-type]

    with pytest.raises(HttpError, match="must answer") as error:
        asyncio.run(run())
    assert error.value.status == 502
