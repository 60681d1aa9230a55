"""The device's one MQTT connection to IoT Core; it outlives the cloud being away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import MQTTErrorCode

from .backoff import Backoff
from .configuration import Configuration
from .errors import RequestRejectedError
from .mqtt_client import KEEP_ALIVE_S, make_mqtt_client
from .publish_properties import publish_properties
from .topic_filter import matches

log = logging.getLogger(__name__)

PAYLOAD_LIMIT_BYTES = 128 << 10  # IoT Core's quota
QUEUE_LIMIT_BYTES = 2_621_440  # the classic nucleus' spooler
_MESSAGE_OVERHEAD_BYTES = 256
_ACKNOWLEDGE_LIMIT_S = 10.0
_PACKET_OVERHEAD_BYTES = 8  # fixed header, topic length, packet id, no properties

Receiver = Callable[[str, bytes], None]


@dataclass
class _Subscription:
    qos: int
    receivers: list[Receiver] = field(default_factory=list)


class Connection:
    """An MQTT 5 session that is opened again, with all its subscriptions, whenever it is lost.

    Args:
        configuration: Endpoint, identity and proxy.
        packet_bytes: Longest packet that the device can receive; a longer one drops the link, as on nucleus lite.
            None for no limit.
        keeps_messages: Whether messages of QoS 1 are taken without a connection, and sent with the next one, as the
            classic nucleus' spooler does; nucleus lite refuses them.
        backoff: Waits between attempts; the default is that of nucleus lite with a lower ceiling (30 s for 300 s),
            because a cloud on a laptop is away for seconds.
    """

    def __init__(
        self,
        configuration: Configuration,
        backoff: Backoff | None = None,
        packet_bytes: int | None = None,
        *,
        keeps_messages: bool = True,
    ) -> None:
        self._packet_bytes = packet_bytes
        self._keeps_messages = keeps_messages
        self.connected = asyncio.Event()
        self._host, self._port = configuration.nucleus.data_endpoint, configuration.nucleus.mqtt_port
        self._backoff = backoff or Backoff(5.0, 30.0)
        self._loop = asyncio.get_running_loop()
        self._lost = asyncio.Event()
        self._subscriptions: dict[str, _Subscription] = {}
        self._acknowledgements: dict[int, asyncio.Future[None]] = {}
        self._queued: dict[int, int] = {}
        self._connect_listeners: list[Callable[[], None]] = []
        self._client = client = make_mqtt_client(configuration)
        client.on_connect = lambda _c, _u, _f, reason, _p: self._in_loop(
            self._on_connect, reason, self._subscribe_again(reason)
        )
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._in_loop(self._on_disconnect, reason)
        client.on_message = lambda _c, _u, message: self._in_loop(self._on_message, message.topic, message.payload)
        client.on_publish = lambda _c, _u, mid, _r, _p: self._in_loop(self._queued.pop, mid, None)
        client.on_subscribe = lambda _c, _u, mid, reasons, _p: self._in_loop(self._on_subscribe, mid, reasons)

    def on_connected(self, listener: Callable[[], None]) -> None:
        """Call a function after every successful connect, once the subscriptions are under way again."""
        self._connect_listeners.append(listener)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        try:
            while True:
                self._lost.clear()
                try:
                    await asyncio.to_thread(self._client.connect, self._host, self._port, KEEP_ALIVE_S)
                except (OSError, ValueError) as exc:
                    log.warning("no MQTT connection to %s:%d: %s", self._host, self._port, exc)
                else:
                    self._client.loop_start()
                    await self._lost.wait()
                    await asyncio.to_thread(self._client.loop_stop)
                await asyncio.sleep(self._backoff.next_s())
        finally:
            self._client.disconnect()
            await asyncio.to_thread(self._client.loop_stop)

    def publish(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any] | None = None) -> None:
        """Send a message; one of QoS 1 that was taken is kept until the cloud has acknowledged it.

        Args:
            topic: Topic without wildcards.
            payload: At most 128 KiB.
            qos: 0 or 1.
            properties: MQTT 5 properties as the IPC names them; None for none.

        Raises:
            RequestRejectedError: Too large, not connected (QoS 0, or a device that keeps no messages), or too much is
                waiting already (QoS 1).
        """
        if len(payload) > PAYLOAD_LIMIT_BYTES:
            raise RequestRejectedError(f"a payload must be at most {PAYLOAD_LIMIT_BYTES} bytes, got {len(payload)}")
        size = len(payload) + _MESSAGE_OVERHEAD_BYTES
        if qos and sum(self._queued.values()) + size > QUEUE_LIMIT_BYTES:
            raise RequestRejectedError(f"{QUEUE_LIMIT_BYTES} bytes wait for the cloud already: try again later")
        if not qos and not self.connected.is_set():
            raise RequestRejectedError("the device is not connected: try again later, or use QoS 1")
        if qos and not self._keeps_messages and not self.connected.is_set():
            raise RequestRejectedError(
                "the device is not connected, and nucleus lite keeps no messages: try again later"
            )
        retain, attached = publish_properties(properties or {})
        info = self._client.publish(topic, payload, qos, retain, attached)
        if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE or (info.rc and not qos):
            raise RequestRejectedError(f"the message was not taken: {mqtt.error_string(info.rc)}")
        if qos:
            self._queued[info.mid] = size

    async def subscribe(self, topic_filter: str, qos: int, receiver: Receiver) -> Callable[[], None]:
        """Call `receiver(topic, payload)` for every message; one subscription serves all receivers of a filter.

        Returns:
            What ends it.

        Raises:
            RequestRejectedError: The cloud refuses the subscription or does not acknowledge it. While the device is
                not connected nothing is refused: the subscription is made at the next connect.
        """
        subscription = self._subscriptions.setdefault(topic_filter, _Subscription(-1))
        subscription.receivers.append(receiver)
        if subscription.qos < qos:
            subscription.qos = qos
            try:
                await self._request_subscription(topic_filter, qos)
            except RequestRejectedError:
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
            if self.connected.is_set():
                self._client.unsubscribe(topic_filter)

    def _in_loop(self, function: Callable[..., object], *arguments: object) -> None:
        """Leave paho's thread; at shutdown the loop may be gone."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _subscribe_again(self, reason: Any) -> frozenset[str]:
        """Restore the subscriptions from paho's thread, before it sends the messages that have waited."""
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
        for topic_filter, subscription in list(self._subscriptions.items()):
            if matches(topic_filter, topic):
                for receiver in list(subscription.receivers):
                    receiver(topic, payload)
