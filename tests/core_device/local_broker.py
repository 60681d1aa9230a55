"""The broker of a core device for tests: certificates of its own authority, clients of paho, and raw ones over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.core_device.tls_identity import make_identity
from twin.core_device.client_devices.authority import CertificateAuthority
from twin.core_device.client_devices.broker import Broker, Limits
from twin.core_device.client_devices.client_connection import listen

WAIT_S = 30.0


class OpenGate:
    """Lets everybody in but `stranger…`, and everything be done but on `secret`."""

    def __init__(self) -> None:
        self.certificates: list[bytes] = []
        self.delay_s = 0.0

    async def refusal(self, certificate: bytes, client_id: str) -> str:
        self.certificates.append(certificate)
        await asyncio.sleep(self.delay_s)
        return "a stranger" if client_id.startswith("stranger") else ""

    def allows(self, client_id: str, operation: str, resource: str) -> bool:
        return "secret" not in resource


@dataclass
class Local:
    """A running broker."""

    broker: Broker
    gate: OpenGate
    folder: Path
    authority: CertificateAuthority

    async def start(self, port: int = 0) -> None:
        roots = self.folder / "tls" / "ca.pem"
        context = self.authority.server_context(["127.0.0.1"], timedelta(hours=1), roots)
        await listen(self.broker, context, "127.0.0.1", port)

    def tls(self, *, certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata="".join(self.authority.certificates))
        if certificate:
            context.load_cert_chain(self.folder / "tls" / "device.pem", self.folder / "tls" / "device.key")
        return context

    def raw(self, *, certificate: bool = True) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.broker.port or 0), timeout=WAIT_S)
        return self.tls(certificate=certificate).wrap_socket(plain, server_hostname="127.0.0.1")

    async def client(self, client_id: str, **more: Any) -> LocalClient:
        client = LocalClient(client_id, self.tls(), **more)
        await asyncio.to_thread(client.connect, self.broker.port or 0)
        return client


@contextlib.asynccontextmanager
async def local_broker(folder: Path, limits: Limits | None = None) -> AsyncIterator[Local]:
    """A broker on a free port."""
    make_identity(folder / "tls")
    gate = OpenGate()
    local = Local(Broker(gate, limits), gate, folder, CertificateAuthority(folder / "authority", "core-1"))
    await local.start()
    try:
        async with asyncio.timeout(60):
            yield local
    finally:
        await local.broker.stop()


@dataclass
class LocalClient:
    """paho's client; what arrives is kept."""

    client_id: str
    context: ssl.SSLContext
    clean: bool = True
    will: tuple[str, str] | None = None
    received: list[mqtt.MQTTMessage] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self.granted: dict[int, list[int]] = {}
        self.connected: list[str] = []
        self.present = False
        self.client = client = mqtt.Client(
            CallbackAPIVersion.VERSION2, self.client_id, clean_session=self.clean, protocol=mqtt.MQTTv311
        )
        client.tls_set_context(self.context)
        client.reconnect_delay_set(1, 1)
        if self.will:
            client.will_set(*self.will, qos=1)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda *_: self._note(lambda: self.connected.append("lost"))
        client.on_message = lambda _c, _u, message: self._note(lambda: self.received.append(message))
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._note(
            lambda: self.granted.update({mid: [code.value for code in codes]})
        )

    def _on_connect(self, _client: Any, _user: Any, flags: Any, code: Any, _properties: Any) -> None:
        self.present = flags.session_present
        self._note(lambda: self.connected.append(str(code)))

    def _note(self, change: Any) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def _until(self, ready: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(ready, WAIT_S), f"{self.client_id}: nothing within {WAIT_S:g} s"

    def connect(self, port: int) -> None:
        self.client.connect("127.0.0.1", port, 30)
        self.client.loop_start()
        self._until(lambda: self.connected)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> int:
        _code, mid = self.client.subscribe(topic_filter, qos)
        await asyncio.to_thread(self._until, lambda: mid in self.granted)
        return self.granted[mid or 0][0]

    async def publish(self, topic: str, payload: bytes | str, qos: int = 1, *, retain: bool = False) -> None:
        information = self.client.publish(topic, payload, qos, retain)
        await asyncio.to_thread(information.wait_for_publish, WAIT_S)
        assert information.is_published()

    async def messages(self, count: int) -> list[tuple[str, bytes]]:
        await asyncio.to_thread(self._until, lambda: len(self.received) >= count)
        return [(message.topic, bytes(message.payload)) for message in self.received]

    async def until_connected(self, times: int) -> None:
        await asyncio.to_thread(self._until, lambda: self.connected.count("Success") >= times)

    async def until_lost(self) -> None:
        await asyncio.to_thread(self._until, lambda: "lost" in self.connected)

    async def close(self) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)
