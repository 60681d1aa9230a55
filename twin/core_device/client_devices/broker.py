"""The MQTT 3.1.1 broker of a core device: who is let in, sessions, subscriptions, delivery; all bounded."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from paho.mqtt.matcher import MQTTMatcher

from . import packets
from .packets import Connect, Kind, Message

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What clients may ask of the broker.

    Args:
        connections: At once; one more is closed at once, without a word.
        handshake_s: For TLS, and again for CONNECT and what is asked about it.
        packet_bytes: Longest packet, IoT Core's payload with a topic; a longer one ends the connection.
        sessions: Kept for clients that are away (CONNECT without clean session); the one away longest goes.
        filters: Of a client; one more is refused in SUBACK. A SUBSCRIBE with more of them ends the connection.
        in_flight: Messages of QoS 1 and 2 to a client that it has not acknowledged; the rest waits.
        queue: Messages of QoS 1 and 2 that wait for a client, also while it is away; one more is dropped.
        queue_bytes: Of their payloads.
        held_bytes: Of what waits for all clients, or is not acknowledged by them, with 200 bytes a message. Beyond that
            a message for a client that has others to take is dropped, the newest; one that keeps up gets one at a time.
        unread_bytes: Written to a client and not read by it; then messages of QoS 0 are dropped for it.
        retained: Topics with a retained message; one more is not kept.
        keep_alive_s: Longest time without a packet; a client that asks for longer, or for none, has this one.
    """

    connections: int = 500
    handshake_s: float = 20.0
    packet_bytes: int = (128 << 10) + 2048
    sessions: int = 500
    filters: int = 100
    in_flight: int = 20
    queue: int = 500
    queue_bytes: int = 1 << 20
    held_bytes: int = 64 << 20
    unread_bytes: int = 256 << 10
    retained: int = 1000
    keep_alive_s: int = 1200


class Gate(Protocol):
    """Who may connect, and what a client may do."""

    async def refusal(self, certificate: bytes, client_id: str) -> str:
        """Why a client is turned away; empty for one that may come in.

        Args:
            certificate: What it has shown (DER).
            client_id: Of CONNECT.
        """

    def allows(self, client_id: str, operation: str, resource: str) -> bool:
        """Whether a client that came in may do something: `mqtt:publish` on `mqtt:topic:a/b`."""


Receiver = Callable[[Message], None]

_MESSAGE_BYTES = 200


class Line(Protocol):
    """A client's connection, as the broker uses it; `client_connection.Connection` is one."""

    session: Session | None
    will: Message | None

    def send(self, packet: bytes) -> None:
        """Write a packet."""

    def unread_bytes(self) -> int:
        """What is written and not sent yet."""
        ...

    def abort(self, reason: str) -> None:
        """End the connection at once; a will is sent."""


@dataclass(eq=False)
class Session:
    """What is kept of a client as long as its session lasts."""

    client_id: str
    clean: bool
    filters: dict[str, int] = field(default_factory=dict)
    waiting: deque[Message] = field(default_factory=deque)
    waiting_bytes: int = 0
    held_bytes: int = 0
    """Of what waits and what is in flight, as the broker counts it for all clients together."""
    in_flight: OrderedDict[int, Message | None] = field(default_factory=OrderedDict)
    """By packet id, the oldest first; None once PUBREC has come for it."""
    received: set[int] = field(default_factory=set)
    """Ids of QoS 2 that came and are not released."""
    connection: Line | None = None
    dropped: int = 0
    refused: int = 0
    _ids: itertools.cycle[int] = field(default_factory=lambda: itertools.cycle(range(1, 65536)))

    def next_id(self) -> int:
        """An id that no message in flight has."""
        return next(number for number in self._ids if number not in self.in_flight)


class Broker:
    """Sessions, subscriptions and retained messages; the listener may be started anew without losing them.

    Args:
        gate: Who may connect and do what.
        limits: What clients may ask.
    """

    def __init__(self, gate: Gate, limits: Limits | None = None) -> None:
        self.gate, self.limits = gate, limits or Limits()
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        self.port: int | None = None
        self.held_bytes = 0
        self._is_full = False
        self._connections: set[Line] = set()
        self._retained: dict[str, Message] = {}
        self._subscribers: dict[str, dict[Session | Receiver, int]] = {}
        self._matching = MQTTMatcher()  # type: ignore[no-untyped-call]
        self._server: asyncio.Server | None = None

    async def start(self, protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int) -> None:
        """Listen; `client_connection.listen` does it with TLS.

        Args:
            protocol: Makes the protocol of a connection, which calls `admit` first.
            host: Address to bind.
            port: 0 for any.

        Raises:
            OSError: The port is taken.
        """
        self._server = await asyncio.get_running_loop().create_server(protocol, host, port)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and end all connections; sessions that are not clean stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.abort("the broker stops")
        await asyncio.sleep(0)
        self.port = None

    @property
    def connected(self) -> list[str]:
        """Ids of the clients that are connected."""
        return [client_id for client_id, session in self.sessions.items() if session.connection is not None]

    def end(self, client_id: str, reason: str, *, forget: bool) -> None:
        """End a client's connection, and its session if it is to be forgotten; its will is sent."""
        session = self.sessions.get(client_id)
        if session is not None:
            if session.connection is not None:
                session.connection.abort(reason)
            if forget:
                self._forget(session)

    def admit(self, connection: Line) -> bool:
        """Take a new connection; False where there is no room."""
        if len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def drop(self, connection: Line) -> None:
        """A connection has ended."""
        self._connections.discard(connection)
        session = connection.session
        if session is not None and session.connection is connection:
            session.connection = None
            if session.clean:
                self._forget(session)
            elif session.client_id in self.sessions:
                self.sessions.move_to_end(session.client_id)
        if connection.will is not None and session is not None:
            self.receive(session, connection.will)

    def open_session(self, connection: Line, connect: Connect) -> tuple[Session, bool]:
        """The session of a client that may come in, and whether it was there before."""
        found = self.sessions.get(connect.client_id)
        if found is not None and found.connection is not None:
            found.connection.abort("another connection has the same client id")
            found = self.sessions.get(connect.client_id)
        if found is not None and (connect.clean or found.clean):
            self._forget(found)
            found = None
        session = found or Session(connect.client_id, connect.clean)
        session.connection = connection
        self.sessions[session.client_id] = session
        away = [each for each in self.sessions.values() if each.connection is None]
        for surplus in away[: len(away) - self.limits.sessions]:
            self._forget(surplus)
        return session, found is not None

    def _forget(self, session: Session) -> None:
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        session.waiting.clear()
        session.in_flight.clear()
        session.waiting_bytes = 0
        self._hold(session, -session.held_bytes)
        for topic_filter in list(session.filters):
            self.unsubscribe(session, topic_filter)

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """Give a client what it asks for, if it may; what SUBACK says of it."""
        known = topic_filter in session.filters
        if not known and len(session.filters) >= self.limits.filters:
            return packets.REFUSED
        if not self.gate.allows(session.client_id, "mqtt:subscribe", f"mqtt:topicfilter:{topic_filter}"):
            _note_refusal(session, "subscribe to", topic_filter)
            return packets.REFUSED
        session.filters[topic_filter] = qos
        self._add(topic_filter, session, qos)
        return qos

    def retained_for(self, topic_filter: str) -> list[Message]:
        """The retained messages that a filter covers."""
        matching = MQTTMatcher()  # type: ignore[no-untyped-call]
        matching[topic_filter] = True
        return [
            message
            for topic, message in self._retained.items()
            if any(matching.iter_match(topic))  # type: ignore[no-untyped-call]
        ]

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Take a filter back; one that is not there is fine."""
        if session.filters.pop(topic_filter, None) is not None:
            self._remove(topic_filter, session)

    def listen(self, topic_filter: str, receiver: Receiver) -> Callable[[], None]:
        """Call a function of this device for what clients publish, not for what it publishes itself; what ends it."""
        self._add(topic_filter, receiver, packets.EXACTLY_ONCE)
        return lambda: self._remove(topic_filter, receiver)

    def _add(self, topic_filter: str, who: Session | Receiver, qos: int) -> None:
        if topic_filter not in self._subscribers:
            self._subscribers[topic_filter] = self._matching[topic_filter] = {}
        self._subscribers[topic_filter][who] = qos

    def _remove(self, topic_filter: str, who: Session | Receiver) -> None:
        self._subscribers[topic_filter].pop(who, None)
        if not self._subscribers[topic_filter]:
            del self._subscribers[topic_filter]
            del self._matching[topic_filter]  # type: ignore[no-untyped-call]

    def receive(self, session: Session, message: Message) -> None:
        """Take a client's message, if it may send it; MQTT 3.1.1 has no words for a refusal."""
        if self.gate.allows(session.client_id, "mqtt:publish", f"mqtt:topic:{message.topic}"):
            self._distribute(message, from_client=True)
            return
        _note_refusal(session, "publish on", message.topic)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message of this device to clients, at QoS 1 where they have asked for it; one too large is dropped."""
        if not packets.is_topic(topic) or len(topic.encode()) + len(payload) + 4 > self.limits.packet_bytes:
            text = "%d bytes on %.80r are no message for client devices: at most %d, on a topic without wildcards"
            log.warning(text, len(payload), topic, self.limits.packet_bytes)
            return
        self._distribute(Message(topic, payload, packets.AT_LEAST_ONCE), from_client=False)

    def _distribute(self, message: Message, *, from_client: bool) -> None:
        if message.retain:
            self._keep(message)
        wanted: dict[Session | Receiver, int] = {}
        for subscribers in self._matching.iter_match(message.topic):  # type: ignore[no-untyped-call]
            for who, qos in subscribers.items():
                # Filters that overlap are one delivery, at the highest QoS.
                wanted[who] = max(qos, wanted.get(who, 0))
        for who, qos in wanted.items():
            if isinstance(who, Session):
                self.deliver(who, packets.at_qos(message, qos))
            elif from_client:
                who(message)

    def _keep(self, message: Message) -> None:
        if not message.payload:
            self._retained.pop(message.topic, None)
        elif message.topic in self._retained or len(self._retained) < self.limits.retained:
            self._retained[message.topic] = message
        else:
            log.warning("at most %d retained messages, that of %.80r is not kept", self.limits.retained, message.topic)

    def deliver(self, session: Session, message: Message) -> None:
        """Send a message to a client, or let it wait; beyond the bounds it is dropped."""
        connection, limits = session.connection, self.limits
        if message.qos == packets.AT_MOST_ONCE:
            if connection is not None and connection.unread_bytes() <= limits.unread_bytes:
                connection.send(packets.publish(message))
        elif self.sessions.get(session.client_id) is not session:
            return  # it has ended while the message went round
        elif len(session.waiting) >= limits.queue or session.waiting_bytes + len(message.payload) > limits.queue_bytes:
            session.dropped += 1
            if session.dropped & (session.dropped - 1) == 0:
                text = "client device %s: more than %d messages or %d bytes wait for it, %d dropped"
                log.warning(text, session.client_id, limits.queue, limits.queue_bytes, session.dropped)
        elif self._has_room(session, size := _size(message)):
            session.waiting.append(message)
            session.waiting_bytes += len(message.payload)
            self._hold(session, size)
            self.go_on(session)
        else:
            session.dropped += 1

    def _has_room(self, session: Session, size: int) -> bool:
        """Whether the bound of all clients together allows a message more for this one."""
        if self.held_bytes + size <= self.limits.held_bytes:
            return True
        if not self._is_full:
            self._is_full = True
            text = (
                "more than %d bytes wait for all client devices together, most of them for %s (%d bytes): what comes "
                "is dropped for those that have not taken what came before"
            )
            most = max(self.sessions.values(), key=lambda each: each.held_bytes)
            log.warning(text, self.limits.held_bytes, most.client_id, most.held_bytes)
        return session.connection is not None and not session.held_bytes

    def _hold(self, session: Session, size: int) -> None:
        session.held_bytes += size
        self.held_bytes += size
        # Said again only after half of it is free, not at each message that goes.
        self._is_full = self._is_full and self.held_bytes > self.limits.held_bytes // 2

    def acknowledged(self, session: Session, packet_id: int, *, released: bool) -> None:
        """A client has a message, which is let go; its id is free once it is released, at QoS 1 at once."""
        message = session.in_flight.get(packet_id)
        if message is not None:
            self._hold(session, -_size(message))
            session.in_flight[packet_id] = None
        if released:
            session.in_flight.pop(packet_id, None)
            self.go_on(session)

    def go_on(self, session: Session) -> None:
        """Send what waits, as far as the client keeps up."""
        connection = session.connection
        while (
            connection is not None
            and session.waiting
            and len(session.in_flight) < self.limits.in_flight
            and connection.unread_bytes() <= self.limits.unread_bytes
        ):
            message = session.waiting.popleft()
            session.waiting_bytes -= len(message.payload)
            packet_id = session.next_id()
            session.in_flight[packet_id] = message
            connection.send(packets.publish(message, packet_id))

    def resume(self, session: Session) -> None:
        """Send again what a client that is back has not acknowledged, then what waits."""
        connection = session.connection
        for packet_id, message in list(session.in_flight.items()):
            if connection is not None and message is not None:
                connection.send(packets.publish(message, packet_id, duplicate=True))
            elif connection is not None:
                connection.send(packets.answer(Kind.PUBREL, packet_id))
        self.go_on(session)


def _size(message: Message) -> int:
    return len(message.payload) + len(message.topic) + _MESSAGE_BYTES


def _note_refusal(session: Session, doing: str, topic: str) -> None:
    session.refused += 1
    if session.refused & (session.refused - 1) == 0:
        text = "client device %s may not %s %.80r: it was refused %d times"
        log.warning(text, session.client_id, doing, topic, session.refused)
