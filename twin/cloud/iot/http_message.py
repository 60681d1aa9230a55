"""HTTP/1.1 messages on the device's side: read within limits, answered and closed."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import h11

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 1 << 20
READ_LIMIT_S = 20.0
"""A head, and a body, arrives within this time or the connection is given up."""

Document = dict[str, Any]


class HttpError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: What the rule is and what came instead.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RequestHead:
    """The first part of a request.

    Args:
        method: As sent.
        target: Path with query, or `host:port` of a CONNECT.
        version: `1.1` or `1.0`.
        fields: Header names and values as they came.
        headers: Header names in lower case → value; the last one of a repeated header.
        connection: Knows where the body ends.
    """

    method: str
    target: str
    version: str
    fields: tuple[tuple[bytes, bytes], ...]
    headers: dict[str, str]
    connection: h11.Connection

    @property
    def host(self) -> str:
        """The name in the Host header, without a port, in lower case."""
        return self.headers.get("host", "").partition(":")[0].lower()

    def closing(self) -> bytes:
        """The same head, asking the server to close the connection after its answer."""
        kept = [b"%s: %s" % field for field in self.fields if field[0].lower() not in _HOP_BY_HOP]
        start = f"{self.method} {self.target} HTTP/{self.version}".encode("latin-1")
        return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection"))
_CHUNK_BYTES = 64 * 1024


async def read_head(reader: asyncio.StreamReader) -> RequestHead:
    """Read a request up to the empty line.

    Args:
        reader: Made with a limit of `HEAD_LIMIT_BYTES`.

    Raises:
        HttpError: If it is too large, too slow or no HTTP/1.x.
        asyncio.IncompleteReadError: If the peer goes before it is complete.
    """
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            raw = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError as error:
        raise HttpError(408, f"request head must arrive within {READ_LIMIT_S:g} s") from error
    except asyncio.LimitOverrunError as error:
        raise HttpError(431, f"request head must be at most {HEAD_LIMIT_BYTES} bytes") from error
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
    try:
        connection.receive_data(raw)
        request = cast(h11.Request, connection.next_event())  # the head is complete
    except h11.RemoteProtocolError as error:
        start = raw.partition(b"\r\n")[0][:80]
        raise HttpError(400, f"request must be HTTP/1.1, got {start!r}: {error}") from error
    return RequestHead(
        request.method.decode("latin-1"),
        request.target.decode("latin-1"),
        request.http_version.decode("latin-1"),
        tuple(request.headers.raw_items()),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers},
        connection,
    )


async def read_body(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read the body that the head announces, by its length or in chunks; nothing without one.

    Raises:
        HttpError: If it is too large, too slow or not framed as announced.
        asyncio.IncompleteReadError: If the peer goes before it is complete.
    """
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            return await _body(head, reader, writer)
    except TimeoutError as error:
        raise HttpError(408, f"body must arrive within {READ_LIMIT_S:g} s") from error
    except h11.RemoteProtocolError as error:
        raise HttpError(400, f"body must be framed as its head says: {error}") from error


async def _body(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    announced = int(head.headers.get("content-length", "0"))
    if announced > BODY_LIMIT_BYTES:
        raise HttpError(413, f"body must be at most {BODY_LIMIT_BYTES} bytes, got {announced}")
    if head.connection.they_are_waiting_for_100_continue:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    while not isinstance(event := head.connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_LIMIT_BYTES:
                raise HttpError(413, f"body must be at most {BODY_LIMIT_BYTES} bytes, got more")
        elif data := await reader.read(_CHUNK_BYTES):
            head.connection.receive_data(data)
        else:
            raise asyncio.IncompleteReadError(bytes(body), announced or None)
    return bytes(body)


async def write_json(writer: asyncio.StreamWriter, status: int, document: Document, error_type: str = "") -> None:
    """Answer with JSON and announce the end of the connection.

    Args:
        writer: Of the connection.
        status: HTTP status.
        document: The body.
        error_type: Value of `x-amzn-ErrorType`, for errors of AWS's services.
    """
    body = json.dumps(document).encode()
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"x-amzn-RequestId: {uuid.uuid4()}",
        *([f"x-amzn-ErrorType: {error_type}"] if error_type else []),
        "Connection: close",
    ]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    async with asyncio.timeout(READ_LIMIT_S):
        await writer.drain()
