"""HTTP/1.1 messages on the device's side: read within limits, answered and closed."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

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
        lines: The header lines as they came, without line ends.
        headers: Header names in lower case → value; the last one of a repeated header.
    """

    method: str
    target: str
    version: str
    lines: tuple[bytes, ...]
    headers: dict[str, str]

    @property
    def host(self) -> str:
        """The name in the Host header, without a port, in lower case."""
        return self.headers.get("host", "").partition(":")[0].lower()

    def closing(self) -> bytes:
        """The same head, asking the server to close the connection after its answer."""
        kept = [line for line in self.lines if line.partition(b":")[0].strip().lower() not in _HOP_BY_HOP]
        start = f"{self.method} {self.target} {self.version}".encode("latin-1")
        return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection"))


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
    start, *lines = raw[:-4].split(b"\r\n")
    words = start.decode("latin-1").split(" ")
    if len(words) != 3 or not all(words) or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise HttpError(400, f"request line must be '<method> <target> HTTP/1.1', got {start[:80]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon or not name or name != name.strip():
            raise HttpError(400, f"header must be '<name>: <value>', got {line[:80]!r}")
        headers[name.lower()] = value.strip()
    return RequestHead(words[0], words[1], words[2], tuple(lines), headers)


async def read_body(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read the body that Content-Length announces; nothing without one.

    Raises:
        HttpError: If it is too large, too slow, or its length is not announced as a number.
        asyncio.IncompleteReadError: If the peer goes before it is complete.
    """
    if "transfer-encoding" in head.headers:
        raise HttpError(411, "body must be announced by Content-Length, got Transfer-Encoding")
    length = head.headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise HttpError(400, f"Content-Length must be a number of bytes, got {length[:80]!r}")
    if len(length) > 18 or int(length) > BODY_LIMIT_BYTES:
        raise HttpError(413, f"body must be at most {BODY_LIMIT_BYTES} bytes, got {length[:18]}")
    if head.headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            return await reader.readexactly(int(length))
    except TimeoutError as error:
        raise HttpError(408, f"body must arrive within {READ_LIMIT_S:g} s") from error


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
