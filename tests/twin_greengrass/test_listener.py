"""Reading requests within limits, without a network."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from twin.cloud.iot import listener
from twin.cloud.iot.listener import BODY_LIMIT_BYTES, HttpError, RequestHead, read_body, read_head


def head_of(raw: bytes, *, ended: bool = True) -> RequestHead:
    async def read() -> RequestHead:
        reader = asyncio.StreamReader(limit=listener.HEAD_LIMIT_BYTES)
        reader.feed_data(raw)
        if ended:
            reader.feed_eof()
        return await read_head(reader)

    return asyncio.run(read())


def test_a_head_is_read() -> None:
    head = head_of(b"GET /a?b HTTP/1.1\r\nHost: X.Example:443\r\nAccept:  y \r\n\r\nbody")

    assert (head.method, head.target, head.host) == ("GET", "/a?b", "x.example")
    assert head.headers == {"host": "X.Example:443", "accept": "y"}


def test_a_forwarded_head_asks_for_the_end_of_the_connection() -> None:
    raw = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nProxy-Connection: x\r\nX-A: \xe4\r\n\r\n"

    assert head_of(raw).closing() == b"GET / HTTP/1.1\r\nHost: h\r\nX-A: \xe4\r\nConnection: close\r\n\r\n"


def test_a_slow_head_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "READ_LIMIT_S", 0.05)

    with pytest.raises(HttpError, match="within") as error:
        head_of(b"GET / HT", ended=False)

    assert error.value.status == 408


def test_a_peer_that_goes_is_no_error_of_the_request() -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        head_of(b"GET / HT")


class Written:
    """What the peer is told while its body is read."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def body_of(raw: bytes) -> tuple[bytes, bytes]:
    async def read() -> tuple[bytes, bytes]:
        reader, writer = asyncio.StreamReader(limit=listener.HEAD_LIMIT_BYTES), Written()
        reader.feed_data(raw)
        reader.feed_eof()
        body = await read_body(await read_head(reader), reader, cast(asyncio.StreamWriter, writer))
        return body, writer.data

    return asyncio.run(read())


START = b"POST / HTTP/1.1\r\nHost: h\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"


def test_a_body_has_the_length_that_was_announced_or_comes_in_chunks() -> None:
    assert body_of(START + b"\r\nnot a body") == (b"", b"")
    assert body_of(START + b"Content-Length: 3\r\n\r\nabcd") == (b"abc", b"")
    assert body_of(CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n") == (b"abc", b"")


def test_a_client_that_waits_is_told_to_go_on() -> None:
    waiting = START + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"

    with pytest.raises(asyncio.IncompleteReadError):
        body_of(waiting)

    async def read() -> bytes:
        reader, writer = asyncio.StreamReader(), Written()
        reader.feed_data(waiting)
        head = await read_head(reader)
        asking = asyncio.create_task(read_body(head, reader, cast(asyncio.StreamWriter, writer)))
        while not writer.data:
            await asyncio.sleep(0)
        assert writer.data == b"HTTP/1.1 100 Continue\r\n\r\n"
        reader.feed_data(b"x")
        return await asking

    assert asyncio.run(read()) == b"x"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (START + b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT_BYTES + 1), 413),
        (CHUNKED + b"%x\r\n" % (BODY_LIMIT_BYTES + 1) + b"x" * (BODY_LIMIT_BYTES + 1), 413),
        (START + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (CHUNKED + b"x\r\n", 400),
    ],
)
def test_a_body_too_large_or_framed_in_two_ways_is_refused(raw: bytes, status: int) -> None:
    with pytest.raises(HttpError) as error:
        body_of(raw)

    assert error.value.status == status
