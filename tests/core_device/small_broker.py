"""As much of an MQTT 5 broker as the device needs, behind TLS and an HTTP CONNECT proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from paho.mqtt.client import topic_matches_sub

from tests.core_device.tls_identity import HOST, TlsIdentity, make_identity
from twin.core_device.configuration import Configuration, Nucleus, System

Responder = Callable[[str, dict[str, Any]], None]


class SmallBroker:
    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.extras: list[tuple[bool, int]] = []  # retain flag, and bytes of properties, of each of those
        self.subscribed: list[str] = []
        self.refused_filters: set[str] = set()
        self.silent_filters: set[str] = set()  # subscriptions that are made, but not acknowledged
        self.client_ids: list[str] = []
        self.certificates: list[int] = []  # serial numbers of those that clients showed
        self.away = False
        self.acknowledges = True
        self.accepts = True  # else who connects waits for its answer until `accept`
        self.responder: Responder | None = None
        self._clients: dict[asyncio.StreamWriter, set[str]] = {}

    def send(self, topic: str, payload: bytes) -> None:
        """Deliver to every client that subscribed (QoS 0: what the device does with it is the same)."""
        packet = _text(topic) + b"\x00" + payload
        for writer, filters in self._clients.items():
            if any(topic_matches_sub(topic_filter, topic) for topic_filter in filters):
                writer.write(_packet(0x30, packet))

    def drop_clients(self) -> None:
        for writer in self._clients:
            writer.transport.abort()

    def accept(self) -> None:
        """Answer those who wait, and whoever connects from now on."""
        self.accepts = True
        for writer in self._clients:
            writer.write(CONNECTED)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.away:
            writer.close()
            return
        self._clients[writer] = set()
        # Through a WebSocket a client signs its request and shows no certificate.
        if secured := writer.get_extra_info("ssl_object"):
            shown = secured.getpeercert(binary_form=True)
            self.certificates.append(x509.load_der_x509_certificate(shown).serial_number)
        try:
            while True:
                head, body = await _read(reader)
                self._handle(head, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            del self._clients[writer]
            writer.close()

    def _handle(self, head: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        kind = head >> 4
        if kind == 1:
            self.client_ids.append(_connect_client_id(body))
            if self.accepts:
                writer.write(CONNECTED)
        elif kind == 3:
            self._on_publish(head, body, writer)
        elif kind == 8:
            at = 3 + body[2]
            size = int.from_bytes(body[at : at + 2], "big")
            topic_filter = body[at + 2 : at + 2 + size].decode()
            refused = topic_filter in self.refused_filters
            if not refused:
                self._clients[writer].add(topic_filter)
                self.subscribed.append(topic_filter)
            if topic_filter in self.silent_filters:
                return
            writer.write(_packet(0x90, body[:2] + b"\x00" + (b"\x87" if refused else b"\x01")))
        elif kind == 10:
            size = int.from_bytes(body[3:5], "big")
            self._clients[writer].discard(body[5 : 5 + size].decode())
            writer.write(_packet(0xB0, body[:2] + b"\x00\x00"))
        elif kind == 12:
            writer.write(_packet(0xD0, b""))

    def _on_publish(self, head: int, body: bytes, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(body[:2], "big")
        topic, at = body[2 : 2 + size].decode(), 2 + size
        if head & 0x06:
            if self.acknowledges:
                writer.write(_packet(0x40, body[at : at + 2]))
            at += 2
        payload = body[at + 1 + body[at] :]
        self.published.append((topic, payload))
        self.extras.append((bool(head & 1), body[at]))
        self.send(topic, payload)
        if self.responder:
            with contextlib.suppress(ValueError):
                self.responder(topic, json.loads(payload))


@contextlib.asynccontextmanager
async def running_broker(broker: SmallBroker, folder: Path) -> AsyncIterator[Configuration]:
    """Serve; the device's configuration leads to the broker through a proxy."""
    identity: TlsIdentity = make_identity(folder / "tls")
    server = await asyncio.start_server(broker.serve, "127.0.0.1", 0, ssl=identity.server_context())
    port = server.sockets[0].getsockname()[1]

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(f"CONNECT {HOST}:8883 ".encode()):
            writer.write(b"HTTP/1.1 502 Unknown\r\n\r\n")
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    proxy = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    proxy_url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    system = System(
        identity.folder / "device.key", identity.folder / "device.pem", identity.folder / "ca.pem", folder, "thing-1"
    )
    try:
        yield Configuration(system, Nucleus("us-east-1", "c" + HOST, HOST, "alias", proxy_url=proxy_url))
    finally:
        broker.drop_clients()
        server.close()
        proxy.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
    writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head, size, shift = (await reader.readexactly(1))[0], 0, 0
    while True:
        byte = (await reader.readexactly(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return head, await reader.readexactly(size)


def _packet(head: int, body: bytes) -> bytes:
    size, length = b"", len(body)
    while True:
        length, digit = divmod(length, 128)
        size += bytes((digit | (0x80 if length else 0),))
        if not length:
            return bytes((head,)) + size + body


CONNECTED = _packet(0x20, b"\x00\x00\x00")


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


def _connect_client_id(body: bytes) -> str:
    at = 10 + 1 + body[10]
    size = int.from_bytes(body[at : at + 2], "big")
    return body[at + 2 : at + 2 + size].decode()
