"""MQTT 3.1.1 packets as a server reads and writes them (OASIS standard of 29 October 2014), within bounds.

Nothing here keeps a state or touches a socket: bytes become packets, and what breaks a rule a `MalformedError`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum

LEVEL = 4
"""Of the protocol, in CONNECT; 5 is MQTT 5."""

AT_MOST_ONCE, AT_LEAST_ONCE, EXACTLY_ONCE = 0, 1, 2
REFUSED = 0x80
"""In SUBACK, for a filter that is not granted."""


class Kind(IntEnum):
    """The first four bits of a packet."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


class Refusal(IntEnum):
    """Return codes of CONNACK (table 3.1)."""

    ACCEPTED = 0
    PROTOCOL = 1
    IDENTIFIER = 2
    NOT_AUTHORIZED = 5


class MalformedError(Exception):
    """A packet that breaks a rule of the protocol; a server closes the connection."""


@dataclass(frozen=True, slots=True)
class Message:
    """An application message.

    Args:
        topic: Without wildcards.
        payload: Any bytes.
        qos: 0, 1 or 2.
        retain: To be kept for later subscribers; of a delivered one, that it was.
    """

    topic: str
    payload: bytes
    qos: int = AT_MOST_ONCE
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT; `level` alone says something where it is not `LEVEL`."""

    level: int
    client_id: str = ""
    clean: bool = True
    keep_alive_s: int = 0
    will: Message | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """PUBLISH; without an id at QoS 0."""

    message: Message
    packet_id: int | None
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    kind: Kind
    packet_id: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE: filters with the QoS that is asked for."""

    packet_id: int
    filters: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """UNSUBSCRIBE."""

    packet_id: int
    filters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bare:
    """PINGREQ or DISCONNECT."""

    kind: Kind


Packet = Connect | Publish | Acknowledgement | Subscribe | Unsubscribe | Bare

#: Bits 3 to 0 of the first byte, which are fixed but for PUBLISH (section 2.2.2).
_FLAGS = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}
_FROM_CLIENTS = frozenset(Kind) - {Kind.CONNACK, Kind.SUBACK, Kind.UNSUBACK, Kind.PINGRESP}
_LONGEST_TOPIC_BYTES, _MOST_LEVELS = 1024, 64
#: What UTF-8 and a topic may have; a component's topic has come as JSON.
_PLAIN = re.compile(r"[^+#\0\ud800-\udfff]+")
_TOPIC_RULE = f"have 1 to {_LONGEST_TOPIC_BYTES} bytes in at most {_MOST_LEVELS} levels"


def take(buffer: bytearray, limit_bytes: int) -> tuple[int, bytes] | None:
    """Take the first packet out of what was received.

    Args:
        buffer: What was received; what is taken goes.
        limit_bytes: Longest packet, without its first bytes.

    Returns:
        First byte and the rest after the length; None as long as the packet is not whole.

    Raises:
        MalformedError: It is longer, or its length is no length.
    """
    size = shift = 0
    for at in range(1, min(len(buffer), 5)):
        size |= (buffer[at] & 0x7F) << shift
        shift += 7
        if not buffer[at] & 0x80:
            break
    else:
        if len(buffer) >= 5:
            raise MalformedError("the length of a packet must have at most four bytes")
        return None
    if size > limit_bytes:
        raise MalformedError(f"a packet must be at most {limit_bytes} bytes, got {size}")
    if len(buffer) < at + 1 + size:
        return None
    first, body = buffer[0], bytes(buffer[at + 1 : at + 1 + size])
    del buffer[: at + 1 + size]
    return first, body


def decode(first: int, body: bytes) -> Packet:
    """Read a packet of a client.

    Raises:
        MalformedError: It breaks a rule; the text says which.
    """
    try:
        kind = Kind(first >> 4)
    except ValueError as exc:
        raise MalformedError(f"a packet must have a type from 1 to 14, got {first >> 4}") from exc
    if kind not in _FROM_CLIENTS:
        raise MalformedError(f"{kind.name} must come from a server")
    if kind is not Kind.PUBLISH and first & 0x0F != _FLAGS.get(kind, 0):
        raise MalformedError(f"{kind.name} must have the flags {_FLAGS.get(kind, 0)}, got {first & 0x0F}")
    reader = _Reader(body)
    packet = _read(kind, first, reader)
    if reader.left and not (isinstance(packet, Connect) and packet.level != LEVEL):
        raise MalformedError(f"{kind.name} must end after its fields, got {reader.left} more bytes")
    return packet


def _read(kind: Kind, first: int, reader: _Reader) -> Packet:
    if kind is Kind.CONNECT:
        return _connect(reader)
    if kind is Kind.PUBLISH:
        return _publish(first, reader)
    if kind in (Kind.PINGREQ, Kind.DISCONNECT):
        return Bare(kind)
    packet_id = reader.packet_id()
    if kind is Kind.SUBSCRIBE:
        filters = []
        while reader.left:
            filters.append((reader.filter(), reader.qos()))
        if not filters:
            raise MalformedError("SUBSCRIBE must have a topic filter")
        return Subscribe(packet_id, tuple(filters))
    if kind is Kind.UNSUBSCRIBE:
        ended = []
        while reader.left:
            ended.append(reader.filter())
        if not ended:
            raise MalformedError("UNSUBSCRIBE must have a topic filter")
        return Unsubscribe(packet_id, tuple(ended))
    return Acknowledgement(kind, packet_id)


def _connect(reader: _Reader) -> Connect:
    name, level = reader.text(), reader.byte()
    if name != "MQTT" or level != LEVEL:
        return Connect(level if name == "MQTT" else 0)
    flags, keep_alive_s = reader.byte(), reader.number()
    if flags & 1:
        raise MalformedError("CONNECT must have its last flag 0")
    client_id = reader.text()
    will, qos = None, flags >> 3 & 3
    if flags & 4:
        if qos == 3:
            raise MalformedError("a will must have QoS 0, 1 or 2, got 3")
        topic, payload = reader.topic(), reader.data()
        will = Message(topic, payload, qos, bool(flags & 0x20))
    elif flags & 0x38:
        raise MalformedError("CONNECT must have no flags of a will without one")
    if flags & 0x40 and not flags & 0x80:
        raise MalformedError("a password must come with a user name")
    # Greengrass' brokers know devices by their certificates: name and password are read and not looked at.
    for flag in (0x80, 0x40):
        if flags & flag:
            reader.data()
    return Connect(level, client_id, bool(flags & 2), keep_alive_s, will)


def _publish(first: int, reader: _Reader) -> Publish:
    qos, duplicate = first >> 1 & 3, bool(first & 8)
    if qos == 3 or (duplicate and not qos):
        raise MalformedError(f"PUBLISH must have QoS 0, 1 or 2, and be a duplicate not at 0, got flags {first & 15}")
    topic = reader.topic()
    packet_id = reader.packet_id() if qos else None
    return Publish(Message(topic, reader.everything(), qos, bool(first & 1)), packet_id, duplicate)


class _Reader:
    """Takes fields out of a packet, and says what is missing."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def left(self) -> int:
        return len(self._body) - self._at

    def everything(self) -> bytes:
        return self._take(self.left)

    def _take(self, count: int) -> bytes:
        part = self._body[self._at : self._at + count]
        if len(part) < count:
            raise MalformedError(f"a field must have {count} bytes, got {len(part)}")
        self._at += count
        return part

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._take(2), "big")

    def packet_id(self) -> int:
        if number := self.number():
            return number
        raise MalformedError("a packet's id must not be 0")

    def qos(self) -> int:
        if (qos := self.byte()) <= EXACTLY_ONCE:
            return qos
        raise MalformedError(f"QoS must be 0, 1 or 2, got {qos}")

    def data(self) -> bytes:
        return self._take(self.number())

    def text(self) -> str:
        try:
            text = self.data().decode()
        except UnicodeDecodeError as exc:
            raise MalformedError(f"a text must be UTF-8: {exc}") from exc
        if "\0" in text:
            raise MalformedError("a text must not have the character 0")
        return text

    def topic(self) -> str:
        topic = self.text()
        if not is_topic(topic):
            raise MalformedError(f"a topic must {_TOPIC_RULE}, and no wildcards, got {topic[:80]!r}")
        return topic

    def filter(self) -> str:
        found = self.text()
        if not is_filter(found):
            rule = f"a topic filter must {_TOPIC_RULE}, + and # as whole levels, # as the last"
            raise MalformedError(f"{rule}, got {found[:80]!r}")
        return found


def is_topic(text: str) -> bool:
    """Whether messages can be published on a text: within the bounds, and without wildcards."""
    return _is_short(text) and _PLAIN.fullmatch(text) is not None


def is_filter(text: str) -> bool:
    """Whether a text is a topic filter: wildcards stand for whole levels, `#` for all from there on."""
    levels = text.split("/")
    plain = all(level in ("+", "#") or ("+" not in level and "#" not in level) for level in levels)
    return _is_short(text) and plain and "#" not in levels[:-1]


def _is_short(text: str) -> bool:
    # Levels are bounded apart: matching is a call deeper for each, and each is a node of memory.
    return 0 < len(text.encode(errors="surrogatepass")) <= _LONGEST_TOPIC_BYTES and text.count("/") < _MOST_LEVELS


def connack(refusal: Refusal, *, session_present: bool = False) -> bytes:
    """The answer to CONNECT."""
    return _packet(Kind.CONNACK << 4, bytes((session_present, refusal)))


def suback(packet_id: int, granted: list[int]) -> bytes:
    """The answer to SUBSCRIBE: QoS of each filter, or `REFUSED`."""
    return _packet(Kind.SUBACK << 4, packet_id.to_bytes(2, "big") + bytes(granted))


def answer(kind: Kind, packet_id: int) -> bytes:
    """A packet that is an id alone: PUBACK, PUBREC, PUBREL, PUBCOMP, UNSUBACK."""
    return _packet(kind << 4 | _FLAGS.get(kind, 0), packet_id.to_bytes(2, "big"))


PINGRESP = bytes((Kind.PINGRESP << 4, 0))


def publish(message: Message, packet_id: int | None = None, *, duplicate: bool = False) -> bytes:
    """PUBLISH to a client, at the message's QoS."""
    topic = message.topic.encode()
    head = len(topic).to_bytes(2, "big") + topic
    if packet_id is not None:
        head += packet_id.to_bytes(2, "big")
    flags = duplicate << 3 | message.qos << 1 | message.retain
    return _packet(Kind.PUBLISH << 4 | flags, head + message.payload)


def at_qos(message: Message, qos: int, *, retain: bool = False) -> Message:
    """The message as a subscriber with this QoS gets it (section 3.8.4: the lower of both)."""
    return replace(message, qos=min(message.qos, qos), retain=retain)


def _packet(first: int, body: bytes) -> bytes:
    size, length = bytearray(), len(body)
    while True:
        length, digit = divmod(length, 128)
        size.append(digit | (0x80 if length else 0))
        if not length:
            return bytes((first,)) + size + body
