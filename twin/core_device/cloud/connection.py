"""The device's one MQTT connection to IoT Core; it outlives the cloud being away."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.matcher import MQTTMatcher
from paho.mqtt.properties import Properties

from twin.clock import CLOCK
from twin.core_device.configuration import Configuration
from twin.core_device.errors import Backoff, RequestRejectedError

from .https import DeviceTls
from .mqtt_client import IN_FLIGHT_LIMIT, make_mqtt_client, publish_properties
from .spool import Backlog, Spool

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 30
PAYLOAD_LIMIT_BYTES = 128 << 10  # IoT Core's quota
TOPIC_LIMIT_BYTES, TOPIC_LIMIT_SLASHES = 256, 7  # the same; of basic ingest, after the rule's name
QUEUE_LIMIT_BYTES = 2_621_440  # the classic nucleus' spooler
_NOT_IN_TOPICS = re.compile("[+#\0\ud800-\udfff]")
_MESSAGE_OVERHEAD_BYTES = 256
_ACKNOWLEDGE_LIMIT_S = 10.0
_LOOK_S = 5.0
_PACKET_OVERHEAD_BYTES = 8  # fixed header, topic length, packet id, no properties

Receiver = Callable[[str, bytes], None]


@dataclass
class _Subscription:
    qos: int
    receivers: list[Receiver] = field(default_factory=list)


@dataclass(slots=True)
class _Queued:
    """A message of QoS 1 until its acknowledgement; its payload is in the backlog, then the client's."""

    topic: str
    retain: bool
    properties: Properties | None
    size: int
    number: int | None  # in the spool
    acknowledged: asyncio.Future[None] | None = None  # where somebody waits for it


class Connection:
    """An MQTT 5 session that is opened again, with all its subscriptions, whenever it is lost.

    Args:
        configuration: Endpoint, identity and proxy.
        packet_bytes: Longest packet that the device can receive; a longer one drops the link, as on nucleus lite.
            None for no limit.
        keeps_messages: Whether messages of QoS 1 are taken without a connection, and sent with the next one, as the
            classic nucleus' spooler does; nucleus lite refuses them.
        sends_properties: Whether MQTT 5 properties and the retain flag leave the device; they are checked in any case.
        spool: Where the file is of what `deliver` has taken and the cloud has not; what a process before left in it
            is sent first. None keeps it in memory alone.
        backoff: Waits between attempts; the default is that of nucleus lite with a lower ceiling (3 s for 300 s),
            because a cloud on a laptop is away for seconds.
        tls: What it shows; by default what the configuration names.
        address: As of `make_mqtt_client`.
    """

    def __init__(
        self,
        configuration: Configuration,
        backoff: Backoff | None = None,
        packet_bytes: int | None = None,
        *,
        keeps_messages: bool = True,
        sends_properties: bool = True,
        spool: Path | None = None,
        tls: DeviceTls | None = None,
        address: tuple[str, int] | None = None,
    ) -> None:
        self._packet_bytes = packet_bytes
        self._keeps_messages = keeps_messages
        self._sends_properties = sends_properties
        self.connected = asyncio.Event()
        self._host, self._port = configuration.nucleus.data_endpoint, configuration.nucleus.mqtt_port
        self._backoff = backoff or Backoff(1.0, 3.0)
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._subscriptions: dict[str, _Subscription] = {}
        self._matching = MQTTMatcher()  # type: ignore[no-untyped-call]
        self._acknowledgements: dict[int, asyncio.Future[None]] = {}
        self._queued: dict[int, _Queued] = {}
        self._waiting: deque[_Queued] = deque()
        self._backlog = Backlog()
        self._queued_bytes = 0
        self._connect_listeners: list[Callable[[], None]] = []
        self._tls = tls or DeviceTls(configuration)
        self._context = self._tls.context(identified=True)
        self._client = client = make_mqtt_client(configuration, self._context, address)
        self._served: Any = None
        self._looking: asyncio.TimerHandle | None = None
        client.on_connect = lambda _c, _u, _f, reason, _p: self._later(
            self._on_connect, reason, self._subscribe_again(reason)
        )
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._later(self._on_disconnect, reason)
        client.on_message = lambda _c, _u, message: self._later(self._on_message, message.topic, message.payload)
        client.on_publish = lambda _c, _u, mid, reason, _p: self._later(self._on_acknowledged, mid, reason)
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._later(self._on_subscribe, mid, reasons)
        client.on_socket_close = lambda _c, _u, closed: self._forget_socket(closed)
        self._spool = Spool(spool) if spool else None
        for kept in self._spool.waiting() if self._spool else ():
            self._send(kept.topic, kept.payload, 1, kept.properties, kept.number)

    def on_connected(self, listener: Callable[[], None]) -> None:
        """Call a function after every successful connect, once the subscriptions are under way again."""
        self._connect_listeners.append(listener)

    def cut(self) -> None:
        """Be without a network until `restore`: the connection ends without a word, and none is made."""
        self._reachable.clear()
        self._client.loop_write()
        if self._client.socket() is not None:
            self._client._sock_close()
            self._on_disconnect("the network is gone")

    async def reachable(self) -> None:
        """Wait until there is a network."""
        await self._reachable.wait()

    def restore(self) -> None:
        """Have a network again."""
        self._reachable.set()

    def reconnect(self) -> None:
        """Let go of the connection, which is made anew."""
        self._client.disconnect()

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        try:
            while True:
                await self._reachable.wait()
                self._lost.clear()
                try:
                    await self._connect()
                except (OSError, ValueError) as exc:
                    log.warning("no MQTT connection to %s:%d: %s", self._host, self._port, exc)
                else:
                    await self._lost.wait()
                await CLOCK.sleep(self._backoff.next_s())
        finally:
            self._client.disconnect()
            self._end()
            if self._spool:
                self._spool.tidy()
                self._spool.close()

    async def _connect(self) -> None:
        """Connect in a thread, since TLS and a proxy's answer are waited for, and let the loop serve the socket.

        A thread for each connection would cost more than the rest of a device.
        """
        self._client.on_socket_register_write = None
        connecting = asyncio.ensure_future(asyncio.to_thread(self._open))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # The thread goes on for at most a connect's time-out; what it opens is closed behind it.
            connecting.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self._end())
            raise
        if not self._reachable.is_set():  # the network went while it connected
            self._end()
        opened = self._client.socket()
        if opened is None:
            self._lost.set()
            return
        self._served = opened
        self._loop.add_reader(opened, self._read)
        self._client.on_socket_register_write = lambda _c, _u, full: self._loop.add_writer(full, self._write)
        self._client.on_socket_unregister_write = lambda _c, _u, empty: self._forget_writer(empty)
        self._write()
        self._look()

    def _open(self) -> None:
        # Certificate and key may have been replaced since the last time.
        self._tls.renew(self._context)
        self._client.connect(self._host, self._port, KEEP_ALIVE_S)

    def _read(self) -> None:
        self._client.loop_read()
        # TLS may have read more from the socket than it has given: nothing would wake the loop for that.
        while (opened := self._client.socket()) is not None and isinstance(opened, ssl.SSLSocket) and opened.pending():
            self._client.loop_read()

    def _write(self) -> None:
        self._client.loop_write()

    def _look(self) -> None:
        """Send the keep-alive when it is due; a connection whose answer stays away ends."""
        if self._spool:
            self._spool.tidy()
        if self._client.socket() is not None:
            self._client.loop_misc()
            self._looking = self._loop.call_later(_LOOK_S, self._look)

    def _forget_socket(self, closed: Any) -> None:
        if closed is self._served:
            self._served = None
            self._loop.remove_reader(closed)
            self._loop.remove_writer(closed)

    def _forget_writer(self, empty: Any) -> None:
        self._loop.remove_writer(empty)

    def _end(self) -> None:
        """Close the socket; what was written last is sent."""
        if self._looking:
            self._looking.cancel()
        if self._client.socket() is not None:
            self._client.loop_write()
        if self._client.socket() is not None:
            self._client._sock_close()

    def publish(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any] | None = None) -> None:
        """Send a message; one of QoS 1 is kept in memory until the cloud has acknowledged it.

        Args:
            topic: Topic without wildcards.
            payload: At most 128 KiB.
            qos: 0 or 1.
            properties: MQTT 5 properties as the IPC names them; None for none.

        Raises:
            RequestRejectedError: Too large, not connected (QoS 0, or a device that keeps no messages), or too much is
                waiting already (QoS 1).
        """
        self._check(topic, payload, qos)
        self._send(topic, payload, qos, properties or {})

    async def deliver(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any] | None = None) -> None:
        """Send a component's message; once this returns, one of QoS 1 is not lost by a kill of the device or the cloud.

        It is on disk then, until the cloud has acknowledged it. On a full disk the acknowledgement is waited for.

        Args:
            topic: Topic without wildcards.
            payload: At most 128 KiB.
            qos: 0 or 1.
            properties: MQTT 5 properties as the IPC names them; None for none.

        Raises:
            RequestRejectedError: As of `publish`, or the disk is full and the cloud does not acknowledge it in 10 s;
                then the message may arrive, and twice if it is sent again.
        """
        self._check(topic, payload, qos)
        queued = self._send(topic, payload, qos, properties or {})
        if queued is None or self._spool is None:
            return
        queued.number = self._spool.add(topic, payload, properties or {})
        if queued.number is None:
            await self._wait_for(queued)

    async def _wait_for(self, queued: _Queued) -> None:
        queued.acknowledged = self._loop.create_future()
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_LIMIT_S):
                await queued.acknowledged
        except TimeoutError:
            raise RequestRejectedError(
                f"the device cannot keep the message on {queued.topic} on its disk, and the cloud has not acknowledged "
                f"it in {_ACKNOWLEDGE_LIMIT_S:.0f} s: make room, and try again"
            ) from None

    def _check(self, topic: str, payload: bytes, qos: int) -> None:
        # IoT Core ends the connection over a topic that breaks its rule, again with each repetition of the message.
        if _NOT_IN_TOPICS.search(topic):
            raise RequestRejectedError(f"a topic must be UTF-8 without +, # and zero bytes, got {topic[:300]!r}")
        own = topic.split("/", 3)[-1] if topic.startswith("$aws/rules/") else topic
        if not 1 <= len(own.encode()) <= TOPIC_LIMIT_BYTES or own.count("/") > TOPIC_LIMIT_SLASHES:
            rule = f"a topic must have 1 to {TOPIC_LIMIT_BYTES} bytes and at most {TOPIC_LIMIT_SLASHES} slashes"
            raise RequestRejectedError(f"{rule}, got {topic[:300]!r}")
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise RequestRejectedError(f"a payload must be at most {PAYLOAD_LIMIT_BYTES} bytes, got {len(payload)}")
        if qos and self._queued_bytes + len(payload) + _MESSAGE_OVERHEAD_BYTES > QUEUE_LIMIT_BYTES:
            raise RequestRejectedError(f"{QUEUE_LIMIT_BYTES} bytes wait for the cloud already: try again later")
        if not qos and not self.connected.is_set():
            raise RequestRejectedError("the device is not connected: try again later, or use QoS 1")
        if qos and not self._keeps_messages and not self.connected.is_set():
            raise RequestRejectedError(
                "the device is not connected, and nucleus lite keeps no messages: try again later"
            )

    def _send(
        self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any], number: int | None = None
    ) -> _Queued | None:
        """Give a message to the client; answers what waits for the acknowledgement of one of QoS 1."""
        retain, attached = publish_properties(properties)
        if not self._sends_properties:
            retain, attached = False, None
        if not qos:
            info = self._client.publish(topic, payload, 0, retain, attached)
            if info.rc:
                raise RequestRejectedError(f"the message was not taken: {mqtt.error_string(info.rc)}")
            return None
        size = len(payload) + _MESSAGE_OVERHEAD_BYTES
        queued = _Queued(sys.intern(topic), retain, attached, size, number)
        self._waiting.append(queued)
        self._backlog.put(payload)
        self._queued_bytes += size
        self._hand_over()
        return queued

    def _hand_over(self) -> None:
        """Give the client as many as may be unacknowledged: each costs some 2 kB there, beside what it is.

        Only once the cloud has taken the connection: before, the client would send them at once, ahead of those that it
        has to send again.
        """
        while self._waiting and self.connected.is_set() and len(self._queued) < IN_FLIGHT_LIMIT:
            queued = self._waiting.popleft()
            payload = self._backlog.take(queued.size - _MESSAGE_OVERHEAD_BYTES)
            info = self._client.publish(queued.topic, payload, 1, queued.retain, queued.properties)
            self._queued[info.mid] = queued

    def _on_acknowledged(self, mid: int, reason: Any) -> None:
        queued = self._queued.pop(mid, None)
        if queued is None:  # of QoS 0
            return
        if reason.is_failure:
            log.error("the cloud refuses a message on %s, which is gone: %s", queued.topic, reason)
        self._queued_bytes -= queued.size
        if queued.number is not None and self._spool is not None:
            self._spool.acknowledge(queued.number)
        if queued.acknowledged and not queued.acknowledged.done():
            queued.acknowledged.set_result(None)
        self._hand_over()

    async def subscribe(self, topic_filter: str, qos: int, receiver: Receiver) -> Callable[[], None]:
        """Call `receiver(topic, payload)` for every message; one subscription serves all receivers of a filter.

        Returns:
            What ends it.

        Raises:
            RequestRejectedError: The cloud refuses the subscription or does not acknowledge it. While the device is
                not connected nothing is refused: the subscription is made at the next connect.
        """
        subscription = self._subscriptions.get(topic_filter)
        if subscription is None:
            self._subscriptions[topic_filter] = self._matching[topic_filter] = subscription = _Subscription(-1)
        subscription.receivers.append(receiver)
        if subscription.qos < qos:
            subscription.qos = qos
            try:
                await self._request_subscription(topic_filter, qos)
            except BaseException:  # whoever asked may have left, too
                self._unsubscribe(topic_filter, receiver)
                raise
        return lambda: self._unsubscribe(topic_filter, receiver)

    async def _request_subscription(self, topic_filter: str, qos: int) -> None:
        if not self.connected.is_set():
            return  # the next connect subscribes
        result, mid = self._client.subscribe(topic_filter, qos)
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS or mid is None:
            return  # lost this very moment: the next connect subscribes
        self._acknowledgements[mid] = acknowledged = self._loop.create_future()
        try:
            async with asyncio.timeout(_ACKNOWLEDGE_LIMIT_S):
                await acknowledged
        except TimeoutError:
            if self.connected.is_set():
                raise RequestRejectedError(f"the subscription to {topic_filter} was not acknowledged") from None
        finally:
            self._acknowledgements.pop(mid, None)

    def _unsubscribe(self, topic_filter: str, receiver: Receiver) -> None:
        subscription = self._subscriptions.get(topic_filter)
        if subscription is None or receiver not in subscription.receivers:
            return
        subscription.receivers.remove(receiver)
        if not subscription.receivers:
            del self._subscriptions[topic_filter]
            del self._matching[topic_filter]  # type: ignore[no-untyped-call]
            if self.connected.is_set():
                self._client.unsubscribe(topic_filter)

    def _later(self, function: Callable[..., object], *arguments: object) -> None:
        """Leave paho's callback, and its thread where it connects; at shutdown the loop may be gone."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _subscribe_again(self, reason: Any) -> frozenset[str]:
        """Restore the subscriptions before the client sends the messages that have waited."""
        if reason.is_failure:
            return frozenset()
        restored = {topic_filter: subscription.qos for topic_filter, subscription in list(self._subscriptions.items())}
        for topic_filter, qos in restored.items():
            self._client.subscribe(topic_filter, qos)
        return frozenset(restored)

    def _on_connect(self, reason: Any, restored: frozenset[str]) -> None:
        if reason.is_failure:
            log.error("IoT Core refuses the connection: %s", reason)
            return
        log.info("connected to %s:%d", self._host, self._port)
        self._backoff.reset()
        self.connected.set()
        for topic_filter in self._subscriptions.keys() - restored:  # made in the meantime
            self._client.subscribe(topic_filter, self._subscriptions[topic_filter].qos)
        # Behind them: an answer to what is asked here would find nobody.
        self._hand_over()
        for listener in self._connect_listeners:
            listener()

    def _on_disconnect(self, reason: Any) -> None:
        log.warning("the MQTT connection is lost: %s", reason)
        self.connected.clear()
        self._lost.set()
        for acknowledged in self._acknowledgements.values():
            if not acknowledged.done():
                acknowledged.set_result(None)

    def _on_subscribe(self, mid: int, reasons: list[Any]) -> None:
        acknowledged = self._acknowledgements.get(mid)
        if acknowledged is None or acknowledged.done():
            return
        if reasons and reasons[0].is_failure:
            acknowledged.set_exception(RequestRejectedError(f"the subscription was refused: {reasons[0]}"))
        else:
            acknowledged.set_result(None)

    def _on_message(self, topic: str, payload: bytes) -> None:
        size = len(topic.encode()) + len(payload) + _PACKET_OVERHEAD_BYTES
        if self._packet_bytes is not None and size > self._packet_bytes:
            log.error(
                "a packet of about %d bytes on %s drops the link: nucleus lite takes at most %d; a larger deployment "
                "document does so at every reconnect until the deployment is cancelled",
                size,
                topic,
                self._packet_bytes,
            )
            self._client.disconnect()
            return
        found: list[_Subscription] = list(self._matching.iter_match(topic))  # type: ignore[no-untyped-call]
        for subscription in found:
            for receiver in list(subscription.receivers):
                receiver(topic, payload)
