"""One client's connection to the broker of a core device: TLS with certificates of both sides, then MQTT packets."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from asyncio.sslproto import SSLProtocol
from typing import Any

from twin.ports import abort

from . import packets
from .broker import Broker, Limits, Session
from .packets import Acknowledgement, Bare, Connect, Kind, MalformedError, Message, Publish, Refusal, Subscribe

log = logging.getLogger(__name__)

_SHUTDOWN_S = 2.0
_THING = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


class Connection(asyncio.Protocol):
    """A client's connection, after TLS."""

    def __init__(self, broker: Broker) -> None:
        self.session: Session | None = None
        self.will: Message | None = None
        self._broker = broker
        self._buffer = bytearray()
        self._socket: asyncio.Transport | None = None
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._entering: asyncio.Task[None] | None = None
        self._patience_s = broker.limits.handshake_s

    def opened(self, socket: asyncio.Transport) -> bool:
        """Count the connection, before TLS; False where there is no room."""
        self._socket = socket
        return self._broker.admit(self)

    def closed(self) -> None:
        """The socket is closed, whether TLS came about or not."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._entering is not None:
            self._entering.cancel()
        self._broker.drop(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TLS has come about."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of TLS over TCP
        self._transport = transport
        transport.set_write_buffer_limits(high=self._broker.limits.unread_bytes)
        self._wait()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self.session is not None:
            self._broker.go_on(self.session)

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and work on each packet that is whole."""
        self._buffer += data
        self._work()

    def _work(self) -> None:
        try:
            while self._entering is None and self._transport is not None and not self._transport.is_closing():
                taken = packets.take(self._buffer, self._broker.limits.packet_bytes)
                if taken is None:
                    break
                self._wait()
                self._handle(packets.decode(*taken))
        except MalformedError as exc:
            self.abort(str(exc))
        except Exception:
            log.exception("a packet of a client device could not be worked on")
            self.abort("its packet could not be worked on")

    def _wait(self) -> None:
        """Give the client time for its next packet: one and a half times its keep-alive (section 3.1.2.10)."""
        if self._deadline is not None:
            self._deadline.cancel()
        reason = f"no packet for {self._patience_s:g} s"
        self._deadline = asyncio.get_running_loop().call_later(self._patience_s, self.abort, reason)

    def _handle(self, packet: packets.Packet) -> None:
        session = self.session
        if isinstance(packet, Connect):
            if session is not None:
                raise MalformedError("CONNECT must come once")
            self._enter(packet)
        elif session is None:
            raise MalformedError("the first packet must be CONNECT")
        elif isinstance(packet, Publish):
            self._receive(session, packet)
        elif isinstance(packet, Acknowledgement):
            self._acknowledged(session, packet)
        elif isinstance(packet, Subscribe):
            broker = self._broker
            if (count := len(packet.filters)) > broker.limits.filters:
                raise MalformedError(f"SUBSCRIBE must have at most {broker.limits.filters} filters, got {count}")
            granted = [broker.subscribe(session, name, qos) for name, qos in packet.filters]
            self.send(packets.suback(packet.packet_id, granted))
            for (name, _qos), qos in zip(packet.filters, granted, strict=True):
                for message in broker.retained_for(name) if qos != packets.REFUSED else ():
                    broker.deliver(session, packets.at_qos(message, qos, retain=True))
        elif isinstance(packet, Bare):
            if packet.kind is Kind.PINGREQ:
                self.send(packets.PINGRESP)
            else:
                self.will = None
                self._close()
        else:
            for name in packet.filters:
                self._broker.unsubscribe(session, name)
            self.send(packets.answer(Kind.UNSUBACK, packet.packet_id))

    def _receive(self, session: Session, packet: Publish) -> None:
        message, packet_id = packet.message, packet.packet_id
        if packet_id is None:
            self._broker.receive(session, message)
        elif message.qos == packets.AT_LEAST_ONCE:
            self._broker.receive(session, message)
            self.send(packets.answer(Kind.PUBACK, packet_id))
        else:
            if packet_id not in session.received:
                if len(session.received) >= self._broker.limits.queue:
                    raise MalformedError(f"at most {self._broker.limits.queue} messages of QoS 2 may be unreleased")
                session.received.add(packet_id)
                self._broker.receive(session, message)
            self.send(packets.answer(Kind.PUBREC, packet_id))

    def _acknowledged(self, session: Session, packet: Acknowledgement) -> None:
        kind, packet_id = packet.kind, packet.packet_id
        if kind is Kind.PUBREL:
            session.received.discard(packet_id)
            self.send(packets.answer(Kind.PUBCOMP, packet_id))
        elif kind is Kind.PUBREC:
            self._broker.acknowledged(session, packet_id, released=False)
            self.send(packets.answer(Kind.PUBREL, packet_id))
        else:
            self._broker.acknowledged(session, packet_id, released=True)

    def _enter(self, connect: Connect) -> None:
        if connect.level != packets.LEVEL:
            self._refuse(Refusal.PROTOCOL, f"the protocol must be MQTT 3.1.1, got level {connect.level}")
        elif not _THING.fullmatch(connect.client_id):
            self._refuse(Refusal.IDENTIFIER, f"the client id must be the thing's name, got {connect.client_id[:150]!r}")
        elif self._transport is not None:
            # Nothing more is read meanwhile: what comes may be large, and of anybody.
            self._transport.pause_reading()
            self._entering = asyncio.get_running_loop().create_task(self._admitted(connect))

    async def _admitted(self, connect: Connect) -> None:
        transport, limits = self._transport, self._broker.limits
        assert transport is not None  # noqa: S101 - paused before
        secured = transport.get_extra_info("ssl_object")
        certificate = secured.getpeercert(binary_form=True) if secured is not None else None
        try:
            refusal = await self._broker.gate.refusal(certificate or b"", connect.client_id)
        except Exception:
            log.exception("client device %s could not be looked at", connect.client_id)
            refusal = f"{connect.client_id} could not be looked at"
        self._entering = None
        if transport.is_closing():
            return
        if refusal:
            self._refuse(Refusal.NOT_AUTHORIZED, refusal)
            return
        session, present = self._broker.open_session(self, connect)
        self.session, self.will = session, connect.will
        self._patience_s = 1.5 * min(connect.keep_alive_s or limits.keep_alive_s, limits.keep_alive_s)
        self._wait()
        self.send(packets.connack(Refusal.ACCEPTED, session_present=present))
        log.info("client device %s is connected", connect.client_id)
        self._broker.resume(session)
        transport.resume_reading()
        self._work()

    def _refuse(self, code: Refusal, reason: str) -> None:
        log.warning("a client device is turned away: %s", reason)
        self.send(packets.connack(code))
        self._close()

    def send(self, packet: bytes) -> None:
        """Write a packet; to a client that is gone, nothing. One that reads nothing of it is ended."""
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(packet)
        limits = self._broker.limits
        if self.unread_bytes() > limits.unread_bytes + limits.in_flight * limits.packet_bytes:
            self.abort("it does not read what it is sent")

    def unread_bytes(self) -> int:
        """What is written and not sent yet."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End the connection at once; a will is sent."""
        who = self.session.client_id if self.session is not None else "not known yet"
        log.info("connection of client device %s ends: %s", who, reason)
        # In the middle of TLS there is the socket alone.
        if (opened := self._transport or self._socket) is not None:
            abort(opened)
        # The socket says so later; whoever comes next must find the session free.
        self.closed()
        self.session = self.will = None


class ClientTls(SSLProtocol):
    """asyncio's TLS for a connection that is counted from its first byte on.

    Its receive buffer is a sixteenth of asyncio's, which has 256 KiB resident for each connection from the start.
    """

    max_size = 16 << 10

    def __init__(self, connection: Connection, context: ssl.SSLContext, limits: Limits) -> None:
        more: dict[str, Any] = {"ssl_handshake_timeout": limits.handshake_s, "ssl_shutdown_timeout": _SHUTDOWN_S}
        nobody: Any = None
        super().__init__(asyncio.get_running_loop(), connection, context, nobody, server_side=True, **more)
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come: TLS begins where there is room."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - of TCP
        if self._connection.opened(transport):
            super().connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The socket is closed, in the middle of TLS, too."""
        super().connection_lost(exc)
        self._connection.closed()


async def listen(broker: Broker, context: ssl.SSLContext, host: str, port: int) -> None:
    """Have a broker listen with TLS.

    Args:
        broker: Is started.
        context: With the server's certificate; asks clients for theirs.
        host: Address to bind.
        port: 0 for any.

    Raises:
        OSError: The port is taken.
    """
    await broker.start(lambda: ClientTls(Connection(broker), context, broker.limits), host, port)
