"""Connections to the broker: who falls silent, who gets a message, how large, and whose certificate still counts.

- MiniStack keeps silent clients connected for ever. IoT Core waits one and a half keep-alive intervals, which it holds
  within 30 to 1,200 seconds, 1,200 for none (AWS IoT Core quotas, MQTT keep-alive). A client that never says CONNECT is
  dropped as well.
- MiniStack asks every subscription whether it matches, and looks through all of them to end one: with a thousand
  devices of five subscriptions each, that alone is some 10 ms a message. Here they are looked up by topic levels.
- A client's Maximum Packet Size is honoured, a SUBSCRIBE of the same filter replaces the one before, and a connection
  ends with its certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from ministack.services import iot
from paho.mqtt.matcher import MQTTMatcher

from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud_process import Settings
from twin.ports import stay_paused

logger = logging.getLogger("twin.iot")

SHORTEST_S, LONGEST_S = 30, 1_200
CONNECT_LIMIT_S = 10.0
_FACTOR = 1.5
_LOOK_S = 1.0
_HEAD_BYTES = 16  # of a CONNECT packet; the keep-alive interval is in it


class _Client:
    """What is known of a connection: when it last sent something, and how long it may be silent."""

    def __init__(self) -> None:
        self.head = b""
        self.limit_s = CONNECT_LIMIT_S
        self.heard_at = time.monotonic()

    def hear(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        if len(self.head) < _HEAD_BYTES:
            self.head += data[: _HEAD_BYTES - len(self.head)]
            interval_s = keep_alive_s(self.head)
            if interval_s is not None:
                self.limit_s = _FACTOR * interval_s


def keep_alive_s(head: bytes) -> int | None:
    """The interval that a CONNECT packet asks for, held within IoT Core's limits.

    Args:
        head: The first bytes of the packet (MQTT 3.1.1 and 5.0, section 3.1).

    Returns:
        Seconds, or None if the bytes do not reach that far or are of another packet.
    """
    if not head or head[0] >> 4 != 1:
        return None
    at = 1
    while at < len(head) and head[at] & 0x80:
        at += 1
    at += 1
    name_bytes = int.from_bytes(head[at : at + 2], "big")
    at += 2 + name_bytes + 2  # the name, level and flags
    if len(head) < at + 2 or name_bytes > len("MQIsdp"):
        return None
    asked_s = int.from_bytes(head[at : at + 2], "big")
    return min(max(asked_s or LONGEST_S, SHORTEST_S), LONGEST_S)


_clients: dict[asyncio.StreamWriter, _Client] = {}
_of_this_task: ContextVar[_Client | None] = ContextVar("twin_iot_client", default=None)


@patch(
    "services.iot._MtlsAcceptor._upgrade",
    why="a device that hangs up right behind its handshake is none, not a traceback in the log; what one sends while "
    "the certificate authority is made is not lost",
    signature="async (self, transport)",
)
async def _upgrade(upgrade: Callable[..., Awaitable[None]], acceptor: Any, transport: asyncio.Transport) -> None:
    stay_paused(transport)
    try:
        await upgrade(acceptor, transport)
    except AttributeError as exc:
        # asyncio's start_tls gives no transport where the connection is lost before its caller goes on.
        if (exc.name, exc.obj) != ("get_extra_info", None):
            raise
        transport.abort()


@patch("services.iot._mtls_serve_conn", why="silent clients are disconnected", signature="async (reader, writer)")
async def _serve_connection(
    serve: Callable[..., Awaitable[None]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    client = _clients[writer] = _Client()
    _of_this_task.set(client)
    try:
        await serve(reader, writer)
    finally:
        del _clients[writer]


@patch(
    "services.iot._feed_session", why="silent clients are disconnected", signature="async (session, data, max_buffer)"
)
async def _feed_session(feed: Callable[..., Awaitable[Any]], session: Any, data: bytes, max_buffer: int) -> bool:
    client = _of_this_task.get()
    if client is not None:
        client.hear(data)
    return bool(await feed(session, data, max_buffer))


def end_silent(now: float) -> None:
    """End every connection that has been silent for too long; its session ends as if the network had failed.

    Args:
        now: The present time on the clock of `time.monotonic`.
    """
    for writer, client in list(_clients.items()):
        if now - client.heard_at > client.limit_s:
            peer = writer.get_extra_info("peername")
            logger.warning("MQTT: %s was silent for more than %.0f s and is disconnected", peer, client.limit_s)
            writer.transport.abort()


Found = set[Any]

_topic: ContextVar[str | None] = ContextVar("twin_iot_topic", default=None)
"""The topic of the message that this task delivers, with its account and region before it."""

_ending: ContextVar[str | None] = ContextVar("twin_iot_ending", default=None)
"""The filter of the subscription that this task ends."""


class SubscriptionIndex(dict[str, Found]):
    """Subscriptions by filter; shows those that can match a message under delivery, and the one that is ended.

    Args:
        before: What there is already.
    """

    def __init__(self, before: dict[str, Found]) -> None:
        super().__init__()
        self._matcher = MQTTMatcher()  # type: ignore[no-untyped-call]
        self.filters: dict[str, str] = {}
        for topic_filter, found in before.items():
            self.setdefault(topic_filter, found)

    def setdefault(self, topic_filter: str, found: Found | None = None) -> Found:
        """As of a dict."""
        if topic_filter not in self:
            self[topic_filter] = set() if found is None else found
        return self[topic_filter]

    def __setitem__(self, topic_filter: str, found: Found) -> None:
        super().__setitem__(topic_filter, found)
        self._matcher[topic_filter] = topic_filter

    def pop(self, topic_filter: str, *default: Any) -> Any:
        """As of a dict."""
        if topic_filter in self:
            del self._matcher[topic_filter]  # type: ignore[no-untyped-call]
        return super().pop(topic_filter, *default)

    def clear(self) -> None:
        """As of a dict."""
        super().clear()
        self.filters.clear()
        self._matcher = MQTTMatcher()  # type: ignore[no-untyped-call]

    def values(self) -> Any:
        """Of a message's topic, a superset of what matches; else all."""
        topic = _topic.get()
        if topic is None:
            return super().values()
        return [self[found] for found in self._matching(topic)]

    def items(self) -> Any:
        """Of the subscription that ends; else all."""
        ending = _ending.get()
        if ending is None:
            return super().items()
        return [(ending, self[ending])] if ending in self else []

    def _matching(self, topic: str) -> Iterator[str]:
        matching: Iterator[str] = self._matcher.iter_match(topic)  # type: ignore[no-untyped-call]
        return matching


_index: list[SubscriptionIndex] = []


@patch("services.iot._subscriptions", why="subscribers are found by the topic's levels", signature="dict")
def _indexed(by_ministack: dict[str, Found]) -> SubscriptionIndex:
    _index[:] = [SubscriptionIndex(by_ministack)]
    return _index[0]


@patch(
    "services.iot.broker_publish",
    why="subscribers are found by the topic's levels",
    signature="async (account_id, region, topic, payload, qos=0, retain=False, properties=b'', client_id=None, "
    "principal=None)",
)
async def _publish(
    publish: Callable[..., Awaitable[None]], account_id: str, region: str, topic: str, *rest: Any, **more: Any
) -> None:
    token = _topic.set(iot._scoped_topic(account_id, region, topic))
    try:
        await publish(account_id, region, topic, *rest, **more)
    finally:
        _topic.reset(token)


@patch(
    "services.iot.broker_subscribe",
    why="a subscription is found again by its id",
    signature="async (account_id, region, topic_filter, callback, granted_qos=0, client_id=None, "
    "retain_as_published=False, retain_handling=0)",
)
async def _subscribe(
    subscribe: Callable[..., Awaitable[str]], account_id: str, region: str, topic_filter: str, *rest: Any, **more: Any
) -> str:
    identifier = await subscribe(account_id, region, topic_filter, *rest, **more)
    for index in _index:
        index.filters[identifier] = iot._scoped_topic(account_id, region, topic_filter)
    return identifier


@patch(
    "services.iot.broker_unsubscribe",
    why="the subscription that ends is found by its id",
    signature="async (subscription_id)",
)
async def _unsubscribe(unsubscribe: Callable[..., Awaitable[None]], subscription_id: str) -> None:
    token = _ending.set(next((index.filters.pop(subscription_id, None) for index in _index), None))
    try:
        await unsubscribe(subscription_id)
    finally:
        _ending.reset(token)


#: The Maximum Packet Size of the CONNECT that this task is working on.
_asked_bytes: ContextVar[int | None] = ContextVar("twin_iot_asked_bytes", default=None)


@patch(
    "services.iot._decode_properties",
    why="a client's Maximum Packet Size is honoured (MQTT 5, 3.1.2.11.4)",
    signature="(buf, offset)",
)
def _decode_properties(decode: Callable[..., Any], buf: bytes, offset: int) -> Any:
    found, end = decode(buf, offset)
    sizes = [int(value) for name, value in found if name == iot.PROP_MAXIMUM_PACKET_SIZE]
    if sizes:
        _asked_bytes.set(sizes[0])
    return found, end


@patch(
    "services.iot._register_client",
    why="a client's Maximum Packet Size is honoured (MQTT 5, 3.1.2.11.4)",
    signature="(account_id, region, client_id, session, superseded_reason=None)",
)
def _register_client(
    register: Callable[..., None],
    account_id: str,
    region: str,
    client_id: str,
    session: Any,
    superseded_reason: str | None = None,
) -> None:
    limit_bytes = _asked_bytes.get()
    _asked_bytes.set(None)
    if limit_bytes:
        session.deliver_to_client = _Limited(session, client_id, limit_bytes)
    register(account_id, region, client_id, session, superseded_reason)


class _Limited:
    """Delivers what the client can take; the rest is dropped, as if it had been delivered."""

    def __init__(self, session: Any, client_id: str, limit_bytes: int) -> None:
        self.__self__ = session
        self._deliver = session.deliver_to_client
        self._client_id = client_id
        self._limit_bytes = limit_bytes

    async def __call__(self, topic: str, payload: bytes, qos: int) -> None:
        properties = self.__self__._publish_properties(iot._delivery_properties.get())
        packet = iot._make_publish(topic, payload, qos=qos, packet_id=1, properties=properties)
        if len(packet) > self._limit_bytes:
            logger.warning(
                "MQTT: a packet of %d bytes on %s is not sent to %s, which takes at most %d",
                len(packet),
                topic,
                self._client_id,
                self._limit_bytes,
            )
            return
        await self._deliver(topic, payload, qos)


@patch(
    "services.iot.broker_subscribe",
    why="a SUBSCRIBE of the same filter replaces the one before (MQTT 5, 3.8.4)",
    signature="async (account_id, region, topic_filter, callback, granted_qos=0, client_id=None, "
    "retain_as_published=False, retain_handling=0)",
)
async def _broker_subscribe(
    subscribe: Callable[..., Awaitable[str]],
    account_id: str,
    region: str,
    topic_filter: str,
    callback: Any,
    *rest: Any,
    **named: Any,
) -> str:
    session: Any = getattr(callback, "__self__", None)
    filters: dict[str, str] = getattr(session, "_sub_filters", {})
    before = [identifier for identifier, stored in filters.items() if stored == topic_filter]
    made = await subscribe(account_id, region, topic_filter, callback, *rest, **named)
    for identifier in before:
        await iot.broker_unsubscribe(identifier)
        filters.pop(identifier, None)
        session._sub_granted_qos.pop(identifier, None)
        session._sub_ids.remove(identifier)
    return made


async def end_revoked() -> None:
    """End the sessions whose certificate is not active any more, or is gone."""
    for session in list(iot._connected_clients.values()):
        identifier = session.certificate_id
        # A provisioning claim's is no certificate of the register.
        if identifier is None or session.provisioning_template is not None:
            continue
        record = iot._certificates.get_scoped(session.account_id, session.region, identifier)
        if record is not None and record["status"] == "ACTIVE":
            continue
        state = record["status"].lower() if record else "gone"
        logger.warning("MQTT: the certificate of %s is %s, its connection is ended", session._client_id, state)
        with contextlib.suppress(Exception):
            await session._close_unauthorized()
        with contextlib.suppress(Exception):
            await session._send({"type": "websocket.close", "code": 1000})


async def _look() -> None:
    end_silent(time.monotonic())


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Look every second."""
    register_periodic("MQTT keep-alive", _look, interval_s=_LOOK_S)
    register_periodic("MQTT certificates", end_revoked, interval_s=_LOOK_S)
