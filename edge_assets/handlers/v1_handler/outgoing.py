"""What a function publishes, on its way to the device."""

import base64
import binascii
import logging
from collections.abc import Callable
from typing import Protocol

from v1_handler.publishing import ALL_OR_EXCEPTION, MQTT_BYTES

log = logging.getLogger(__name__)


class Queue(Protocol):
    """Takes messages for the device."""

    def put(self, topic: str, payload: bytes, timeout_s: float = 0) -> bool:
        """Add a message; False when there is no room."""
        ...


class Outgoing:
    """Checks publications and queues them.

    Args:
        queue: Takes the messages; it publishes them at least once, in their order.
        topics: Those that the function may publish on now.
    """

    def __init__(self, queue: Queue, topics: Callable[[], tuple[str, ...]]) -> None:
        self._queue = queue
        self._topics = topics
        self.published = 0
        self.dropped = 0

    def publish(self, topic: str, payload: str, policy: str) -> str | None:
        """Take a publication; see `OnPublish`.

        Args:
            topic: Where to.
            payload: In base64.
            policy: `AllOrException`: say when it is not taken; else it is dropped, counted and logged, as it was by V1
                where no subscription matched and where the queue was full.

        Returns:
            Why it was not taken, for the function; None when it was, or was dropped in silence.
        """
        problem = self._problem(topic, payload)
        if problem is None:
            self.published += 1
            return None
        self.dropped += 1
        log.error("publication dropped: %s", problem)
        return problem if policy == ALL_OR_EXCEPTION else None

    def _problem(self, topic: str, payload: str) -> str | None:
        if topic not in self._topics():
            return f"topic must be one of the configured {', '.join(self._topics()) or '(none)'}, got {topic[:100]!r}"
        try:
            content = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as exc:
            return f"a payload must be base64 here: {exc}"
        if len(content) > MQTT_BYTES:
            return f"a payload must have at most {MQTT_BYTES} bytes, got {len(content)}"
        return None if self._queue.put(topic, content) else "the queue is full"
