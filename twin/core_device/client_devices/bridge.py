"""The MQTT bridge of a core device: what is said on one side is said on another, as `mqttTopicMapping` has it.

A message crosses the bridge once. What it says itself it does not hear: on no side do its own words come back to it, so
that mappings in both directions of a topic are no loop.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config.public_components import BRIDGE
from twin.clock import CLOCK
from twin.core_device.cloud.connection import Connection
from twin.core_device.errors import RequestRejectedError
from twin.core_device.ipc.operations import Cancel, Json
from twin.core_device.ipc.operations import Message as LocalMessage
from twin.core_device.ipc.service import LocalTopics

from .broker import Broker
from .packets import is_filter

log = logging.getLogger(__name__)

LOCAL_MQTT, PUBSUB, IOT_CORE = "LocalMqtt", "Pubsub", "IotCore"
SIDES = (LOCAL_MQTT, PUBSUB, IOT_CORE)

ECHO_S = 60.0
ECHOES = 1000
"""What the bridge has told IoT Core comes back to a device that listens there: it is known for so long, and so many."""


class MappingError(Exception):
    """`mqttTopicMapping` has mistakes; the text lists all of them."""


@dataclass(frozen=True)
class Mapping:
    """One entry: messages of `source` whose topic the filter `topic` covers go to `target`, the prefix before it."""

    name: str
    topic: str
    source: str
    target: str
    prefix: str = ""


def parse_mappings(content: Any) -> list[Mapping]:
    """Read `mqttTopicMapping`.

    Raises:
        MappingError: It has mistakes: each with its place, the rule and what is there.
    """
    mistakes: list[str] = []
    found = []

    def note(where: str, rule: str, value: Any) -> None:
        mistakes.append(f"mqttTopicMapping{where} {rule}, got {'nothing' if value is None else repr(value)[:200]}")

    if content is not None and not isinstance(content, dict):
        note("", "must be an object", content)
        content = None
    for name, entry in (content or {}).items():
        if not isinstance(entry, dict):
            note(f".{name}", "must be an object", entry)
            continue
        topic, source, target = (entry.get(key) for key in ("topic", "source", "target"))
        prefix = entry.get("targetTopicPrefix") or ""
        if not isinstance(topic, str) or not is_filter(topic):
            note(f".{name}.topic", "must be a topic, or a filter with + and # as whole levels", topic)
        for key, side in (("source", source), ("target", target)):
            if side not in SIDES:
                note(f".{name}.{key}", f"must be one of {', '.join(SIDES)}", side)
        if source == target and source in SIDES:
            note(f".{name}.target", "must be another side than source", target)
        if not isinstance(prefix, str) or "+" in prefix or "#" in prefix:
            note(f".{name}.targetTopicPrefix", "must be a text without wildcards", prefix)
        found.append(Mapping(str(name), str(topic), str(source), str(target), str(prefix)))
    if mistakes:
        raise MappingError("\n".join(mistakes))
    return found


class Bridge:
    """Carries messages while it is open.

    Args:
        broker: Where client devices are.
        topics: Where components are.
        connection: Where the cloud is; what it takes while the line is cut is its own bound (2.5 MiB).
    """

    def __init__(self, broker: Broker, topics: LocalTopics, connection: Connection) -> None:
        self._broker, self._topics, self._connection = broker, topics, connection
        self._ends: list[Cancel] = []
        self._told: dict[str, deque[tuple[float, str, bytes]]] = {}
        self.dropped = 0

    async def open(self, mappings: list[Mapping]) -> None:
        """Begin, or go on with other mappings.

        Raises:
            RequestRejectedError: The cloud refuses a subscription.
        """
        self.close()
        # Each mapping hears an echo for itself.
        heard = [each.name for each in mappings if each.source == IOT_CORE]
        self._told = {name: self._told.get(name) or deque(maxlen=ECHOES) for name in heard}
        for mapping in mappings:
            self._ends.append(await self._follow(mapping))

    def close(self) -> None:
        """Carry nothing any more."""
        ends, self._ends = self._ends, []
        for end in ends:
            end()

    async def _follow(self, mapping: Mapping) -> Cancel:
        carry: Callable[[str, bytes], None] = {
            LOCAL_MQTT: self._to_clients,
            PUBSUB: self._to_components,
            IOT_CORE: self._to_cloud,
        }[mapping.target]

        def heard(topic: str, payload: bytes) -> None:
            carry(mapping.prefix + topic, payload)

        if mapping.source == LOCAL_MQTT:
            return self._broker.listen(mapping.topic, lambda message: heard(message.topic, message.payload))
        if mapping.source == PUBSUB:
            return self._topics.subscribe(
                BRIDGE, mapping.topic, True, lambda topic, message: heard(topic, _bytes(message))
            )

        def told(topic: str, payload: bytes) -> None:
            if not _is_echo(self._told[mapping.name], topic, payload):
                heard(topic, payload)

        return await self._connection.subscribe(mapping.topic, 1, told)

    def _to_clients(self, topic: str, payload: bytes) -> None:
        self._broker.publish(topic, payload)

    def _to_components(self, topic: str, payload: bytes) -> None:
        self._topics.publish(BRIDGE, topic, payload)

    def _to_cloud(self, topic: str, payload: bytes) -> None:
        try:
            self._connection.publish(topic, payload, 1)
        except (RequestRejectedError, UnicodeEncodeError) as exc:
            self.dropped += 1
            if self.dropped & (self.dropped - 1) == 0:
                log.warning(
                    "the bridge has dropped %d messages for the cloud, the last on %.80r: %s", self.dropped, topic, exc
                )
            return
        for told in self._told.values():
            told.append((CLOCK.monotonic(), topic, _digest(payload)))


def _is_echo(told: deque[tuple[float, str, bytes]], topic: str, payload: bytes) -> bool:
    now = CLOCK.monotonic()
    while told and now - told[0][0] > ECHO_S:
        told.popleft()
    digest = _digest(payload) if told else b""
    for at, (_when, there, said) in enumerate(told):
        if there == topic and said == digest:
            del told[at]
            return True
    return False


def _bytes(message: LocalMessage) -> bytes:
    return json.dumps(message.value, separators=(",", ":")).encode() if isinstance(message, Json) else message


def _digest(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()
