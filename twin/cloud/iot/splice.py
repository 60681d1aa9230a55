"""Two connections joined into one, until either side has nothing more to say."""

from __future__ import annotations

import asyncio
import ssl

from twin.cloud.iot.http_message import HttpError
from twin.cloud.iot.listener import close

_CHUNK_BYTES = 64 * 1024
_CONNECT_LIMIT_S = 5.0


class _Activity:
    """When either direction last moved: a long download has one silent direction."""

    def __init__(self) -> None:
        self.moved()

    def moved(self) -> None:
        self.at = asyncio.get_running_loop().time()

    def silent_s(self) -> float:
        return asyncio.get_running_loop().time() - self.at


async def splice(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    *,
    first: bytes = b"",
    opening: bytes = b"",
    idle_limit_s: float,
) -> None:
    """Join a client's connection with a new one to a port of 127.0.0.1.

    The server's end of stream ends the connection: everything was said. The client's is passed on where the
    connection can be half-closed, and the answer is waited for.

    Args:
        reader: From the client.
        writer: To the client.
        port: The server's.
        first: Sent to the server before anything of the client.
        opening: Sent to the client once the server is connected.
        idle_limit_s: The connection ends when neither side moves for this long.

    Raises:
        HttpError: If the server cannot be reached.
    """
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        raise HttpError(502, f"the twin's port {port} must answer: {error}") from error
    activity = _Activity()
    try:
        to_server.write(first)
        writer.write(opening)
        upward = asyncio.create_task(_pump(reader, to_server, activity, idle_limit_s))
        downward = asyncio.create_task(_pump(from_server, writer, activity, idle_limit_s))
        try:
            await asyncio.wait((downward,))
        finally:
            for task in (upward, downward):
                task.cancel()
            await asyncio.gather(upward, downward, return_exceptions=True)
    finally:
        await close(to_server)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, activity: _Activity, idle_limit_s: float
) -> None:
    """Copy until the end of the stream, a broken connection or the idle limit."""
    try:
        while True:
            try:
                async with asyncio.timeout(max(0.0, idle_limit_s - activity.silent_s())):
                    data = await reader.read(_CHUNK_BYTES)
            except TimeoutError:
                if activity.silent_s() >= idle_limit_s:
                    break
                continue
            if not data:
                break
            activity.moved()
            writer.write(data)
            async with asyncio.timeout(idle_limit_s):
                await writer.drain()
            activity.moved()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, ssl.SSLError, TimeoutError):
        pass
