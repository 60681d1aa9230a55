"""What a function publishes, on its way to the device."""

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from edge_component.ipc import IpcError, Publication, Publisher, RefusedError, Side
from edge_component.outbox import Outbox
from v1_handler.publishing import ALL_OR_EXCEPTION, MQTT_BYTES

log = logging.getLogger(__name__)

#: What nucleus lite carries in one PublishToIoTCore; the classic nucleus takes AWS IoT Core's 128 KiB.
LITE_BYTES = 6300
#: An error of nucleus lite has no message: that a publication is too large shows by its being refused again and again.
REFUSALS = 8


class Queue(Protocol):
    """Takes messages for the device."""

    def put(self, topic: str, payload: bytes, timeout_s: float = 0) -> bool:
        """Add a message; False when there is no room."""
        ...


class Outgoing:
    """Checks publications and queues them.

    Args:
        queues: Take the messages of a side each; they publish them at least once, in their order.
        sides: Tells where the function may publish on a topic now.
        topics: Those that the function may publish on now.
    """

    def __init__(
        self,
        queues: Mapping[Side, Queue],
        sides: Callable[[str], list[Side]],
        topics: Callable[[], tuple[str, ...]],
    ) -> None:
        self._queues = queues
        self._sides = sides
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
        sides = self._sides(topic)
        if not sides:
            return f"topic must be one of the configured {', '.join(self._topics()) or '(none)'}, got {topic[:100]!r}"
        try:
            content = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as exc:
            return f"a payload must be base64 here: {exc}"
        if len(content) > MQTT_BYTES:
            return f"a payload must have at most {MQTT_BYTES} bytes, got {len(content)}"
        # Every side gets it, whatever becomes of the other one.
        full = [side.value for side in sides if not self._queues[side].put(topic, content)]
        return f"the queue is full ({', '.join(full)})" if full else None


class SizedOutbox(Outbox):
    """See `Outbox`; a message of more than 6,300 bytes that is refused eight times in a row is given up."""

    def attach(self, publisher: Publisher | None) -> None:
        """See `Outbox.attach`."""
        super().attach(publisher and _SizedPublisher(publisher))


class _SizedPublisher:
    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._refusals = 0

    def publish(self, topic: str, payload: bytes) -> Publication:
        try:
            publication = self._publisher.publish(topic, payload)
        except IpcError as exc:
            raise self.refused(exc, payload) from exc
        return _SizedPublication(self, publication, payload)

    def refused(self, error: IpcError, payload: bytes) -> IpcError:
        """What an error is to the outbox."""
        self._refusals += 1
        if len(payload) <= LITE_BYTES or self._refusals < REFUSALS or isinstance(error, RefusedError):
            return error
        self._refusals = 0
        return RefusedError(
            f"refused {REFUSALS} times with {len(payload)} bytes: nucleus lite publishes at most {LITE_BYTES}, the "
            f"classic nucleus 131072: publish it in parts, or through S3 ({error})"
        )

    def done(self) -> None:
        """A message was published."""
        self._refusals = 0


class _SizedPublication:
    def __init__(self, publisher: _SizedPublisher, publication: Publication, payload: bytes) -> None:
        self._publisher, self._publication, self._payload = publisher, publication, payload

    def wait(self, timeout_s: float) -> bool:
        """See `Publication.wait`."""
        try:
            published = self._publication.wait(timeout_s)
        except IpcError as exc:
            raise self._publisher.refused(exc, self._payload) from exc
        if published:
            self._publisher.done()
        return published
