"""Reading requests within limits, without a network."""

from __future__ import annotations

import asyncio

import pytest

from twin.cloud.iot import http_message
from twin.cloud.iot.http_message import HttpError, RequestHead, read_head


def head_of(raw: bytes, *, ended: bool = True) -> RequestHead:
    async def read() -> RequestHead:
        reader = asyncio.StreamReader(limit=http_message.HEAD_LIMIT_BYTES)
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
    monkeypatch.setattr(http_message, "READ_LIMIT_S", 0.05)

    with pytest.raises(HttpError, match="within") as error:
        head_of(b"GET / HT", ended=False)

    assert error.value.status == 408


def test_a_peer_that_goes_is_no_error_of_the_request() -> None:
    with pytest.raises(asyncio.IncompleteReadError):
        head_of(b"GET / HT")
