"""The framing of AWS event-stream messages, as the Greengrass IPC uses it.

A message is, big-endian: `u32 total | u32 headers length | u32 CRC-32 of these two | headers | payload | u32 CRC-32 of
all before`. Format: the public event-stream encoding of the AWS SDKs; checked against awscrt 0.36.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

HEADER_TYPE_INT32, HEADER_TYPE_BYTES, HEADER_TYPE_STRING = 4, 6, 7
# true, false, int8, int16, int32, int64, timestamp, UUID
_FIXED_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, HEADER_TYPE_INT32: 4, 5: 8, 8: 8, 9: 16}

CONNECTION_ACCEPTED = 1
TERMINATE_STREAM = 2

PRELUDE = struct.Struct(">III")
_TRAILER_BYTES = 4
_OVERHEAD_BYTES = PRELUDE.size + _TRAILER_BYTES
_REQUIRED = (":message-type", ":message-flags", ":stream-id")


class MessageType(IntEnum):
    """What a message is (header `:message-type`)."""

    APPLICATION_MESSAGE = 0
    APPLICATION_ERROR = 1
    PING = 2
    PING_RESPONSE = 3
    CONNECT = 4
    CONNECT_ACK = 5
    PROTOCOL_ERROR = 6
    INTERNAL_ERROR = 7


class ProtocolError(Exception):
    """The peer broke the protocol: the connection cannot go on."""


class Header(NamedTuple):
    """A header's value as it is on the wire."""

    kind: int
    raw: bytes


class Message(NamedTuple):
    """One decoded message."""

    type: int
    flags: int
    stream_id: int
    headers: dict[str, Header]
    payload: bytes

    def text(self, name: str) -> str | None:
        """The value of a string header, or None when it is absent or of another type."""
        header = self.headers.get(name)
        return header.raw.decode(errors="replace") if header and header.kind == HEADER_TYPE_STRING else None


def encode_message(
    message_type: int,
    flags: int = 0,
    stream_id: int = 0,
    headers: Iterable[tuple[str, str | Header]] = (),
    payload: bytes = b"",
) -> bytes:
    """Encode a message; a header's value is text or a `Header` passed on as it came."""
    block = bytearray()
    for name, number in zip(_REQUIRED, (message_type, flags, stream_id), strict=True):
        block += _encode_header(name, Header(HEADER_TYPE_INT32, struct.pack(">i", number)))
    for name, value in headers:
        header = Header(HEADER_TYPE_STRING, value.encode()) if isinstance(value, str) else value
        block += _encode_header(name, header)
    lengths = struct.pack(">II", _OVERHEAD_BYTES + len(block) + len(payload), len(block))
    body = b"".join((lengths, struct.pack(">I", zlib.crc32(lengths)), block, payload))
    return body + struct.pack(">I", zlib.crc32(body))


def _encode_header(name: str, header: Header) -> bytes:
    sized = header.kind in (HEADER_TYPE_BYTES, HEADER_TYPE_STRING)
    size = struct.pack(">H", len(header.raw)) if sized else b""
    encoded = name.encode()
    return b"".join((bytes((len(encoded),)), encoded, bytes((header.kind,)), size, header.raw))


def decode_prelude(prelude: bytes, limit_bytes: int) -> tuple[int, int]:
    """Read the first 12 bytes of a message.

    Args:
        prelude: Exactly 12 bytes.
        limit_bytes: The longest whole message that is accepted.

    Returns:
        The bytes of the whole message and of its headers.

    Raises:
        ProtocolError: The checksum or the lengths are wrong, or the message is too long.
    """
    total, headers_length, checksum = PRELUDE.unpack(prelude)
    if zlib.crc32(prelude[:8]) != checksum:
        raise ProtocolError("the checksum of the message's first 8 bytes is wrong")
    if headers_length > total - _OVERHEAD_BYTES:
        raise ProtocolError(f"headers of {headers_length} bytes do not fit in a message of {total} bytes")
    if total > limit_bytes:
        raise ProtocolError(f"a message must be at most {limit_bytes} bytes, got {total}")
    return total, headers_length


def decode_message(prelude: bytes, headers_length: int, rest: bytes) -> Message:
    """Decode a whole message from its prelude and everything after it.

    Raises:
        ProtocolError: The checksum or a header is malformed.
    """
    body, trailer = rest[:-_TRAILER_BYTES], rest[-_TRAILER_BYTES:]
    if zlib.crc32(body, zlib.crc32(prelude)) != int.from_bytes(trailer, "big"):
        raise ProtocolError("the message's checksum is wrong")
    headers = _decode_headers(body[:headers_length])
    numbers = []
    for name in _REQUIRED:
        header = headers.get(name)
        if header is None or header.kind != HEADER_TYPE_INT32:
            raise ProtocolError(f"header {name} must be an int32")
        numbers.append(int.from_bytes(header.raw, "big", signed=True))
    return Message(numbers[0], numbers[1], numbers[2], headers, body[headers_length:])


def _decode_headers(block: bytes) -> dict[str, Header]:
    headers: dict[str, Header] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name, kind = block[at + 1 : name_end].decode(), block[name_end]
            at = name_end + 1
            if kind in (HEADER_TYPE_BYTES, HEADER_TYPE_STRING):
                size = int.from_bytes(block[at : at + 2], "big")
                at += 2
            else:
                size = _FIXED_SIZES[kind]
            headers[name] = Header(kind, block[at : at + size])
            at += size
    except (IndexError, KeyError, UnicodeDecodeError) as exc:
        raise ProtocolError("the message's headers are malformed") from exc
    if at != len(block):
        raise ProtocolError("the message's last header is cut off")
    return headers
