"""The handler component's life: a function, its subscriptions and what it publishes, as the configuration says."""

import base64
import binascii
import logging
import os
from collections.abc import Callable
from functools import partial

from edge_component.connected_service import FINISH_LIMIT_S, ConnectedService
from edge_component.ipc import Connect, IpcClient, IpcError, Publication, Publisher, RefusedError, Side
from edge_component.outbox import Outbox
from v1_handler import settings
from v1_handler.channel import ALL_OR_EXCEPTION, MQTT_BYTES
from v1_handler.dispatcher import Dispatcher
from v1_handler.settings import HandlerSettings

log = logging.getLogger(__name__)

#: What nucleus lite carries in one PublishToIoTCore; the classic nucleus takes AWS IoT Core's 128 KiB.
LITE_BYTES = 6300
#: An error of nucleus lite has no message: that a publication is too large shows by its being refused again and again.
REFUSALS = 8


class HandlerService(ConnectedService):
    """Serves one function; see `ConnectedService`.

    Args:
        connect: Makes a connection to the device.
        outbox: Publishes in the cloud what the function publishes.
        local: Publishes it on the device; see `ConnectedService`.
        make_dispatcher: Makes the dispatcher of accepted settings; it is started and stopped here.
        is_outdated: Tells whether the process runs in an environment that has been replaced; never by default.
        may_end: Asked before the process ends because the device does not know it any more; always by default.
    """

    def __init__(
        self,
        connect: Connect,
        outbox: Outbox,
        make_dispatcher: Callable[[HandlerSettings], Dispatcher],
        *,
        local: Outbox | None = None,
        is_outdated: Callable[[], bool] = lambda: False,
        may_end: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(connect, outbox, local=local, is_outdated=is_outdated, may_end=may_end)
        self._make_dispatcher = make_dispatcher
        self._dispatcher: Dispatcher | None = None
        self._subscribed: set[tuple[Side, str]] | None = None

    def publish(self, topic: str, payload: str, policy: str) -> str | None:
        """Take a publication, check it and queue it; see `OnPublish`.

        Args:
            topic: Where to.
            payload: In base64.
            policy: `AllOrException`: say when it is not taken; else it is dropped and logged, as it was by V1 where no
                subscription matched and where the queue was full.

        Returns:
            Why it was not taken, for the function; None when it was, or was dropped in silence.
        """
        problem = self._problem(topic, payload)
        if problem is None:
            return None
        log.error("publication dropped: %s", problem)
        return problem if policy == ALL_OR_EXCEPTION else None

    def _problem(self, topic: str, payload: str) -> str | None:
        dispatcher = self._dispatcher
        settings = dispatcher.settings if dispatcher else None
        topics = {Side.LOCAL: settings.local_publish, Side.CLOUD: settings.publish} if settings else {}
        sides = [side for side, listed in topics.items() if topic in listed]
        if not sides:
            known = dict.fromkeys((*settings.publish, *settings.local_publish)) if settings else ()
            return f"topic must be one of the configured {', '.join(known) or '(none)'}, got {topic[:100]!r}"
        try:
            content = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError) as exc:
            return f"a payload must be base64 here: {exc}"
        if len(content) > MQTT_BYTES:
            return f"a payload must have at most {MQTT_BYTES} bytes, got {len(content)}"
        # Every side gets it, whatever becomes of the other one.
        outboxes = {Side.LOCAL: self._local, Side.CLOUD: self._outbox}
        full = [side.value for side in sides if not outboxes[side].put(topic, content)]
        return f"the queue is full ({', '.join(full)})" if full else None

    def _accept(self, client: IpcClient, configuration: object) -> bool:
        del client
        wanted = settings.parse(configuration, os.environ.get("AWS_IOT_THING_NAME", ""))
        if self._dispatcher is None or self._dispatcher.settings != wanted:
            before, self._dispatcher = self._dispatcher, self._make_dispatcher(wanted)
            if before:
                before.stop(FINISH_LIMIT_S)
            self._dispatcher.start(before)
            log.info("function %s: %s, %s", wanted.name, wanted.handler, "pinned" if wanted.pinned else "on demand")
        # The simplest way to end subscriptions: a connection of its own for each set of them.
        return self._subscribed is None or self._subscribed == _heard(wanted)

    def _begin(self, client: IpcClient) -> None:
        self._subscribed = _heard(self._dispatcher.settings) if self._dispatcher else set()
        # The device's own first: while the line is cut, one of the cloud may take its time to fail.
        for side, topic in sorted(self._subscribed, reverse=True):
            client.subscribe(topic, partial(self._submit, topic), side)
        listening = sorted(topic if side is Side.CLOUD else f"{topic} (local)" for side, topic in self._subscribed)
        log.info("listening on %s", ", ".join(listening) or "no topic")

    def _disconnected(self) -> None:
        self._subscribed = None

    def _finish(self) -> None:
        self._closed()
        self._drain()

    def _closed(self) -> None:
        """Let the event end that the function works on."""
        if self._dispatcher:
            self._dispatcher.stop(FINISH_LIMIT_S)
            self._dispatcher = None

    def _submit(self, topic: str, payload: bytes) -> None:
        # Of the SDK's thread: the service may end meanwhile.
        if dispatcher := self._dispatcher:
            dispatcher.submit(topic, payload)


def _heard(settings: HandlerSettings) -> set[tuple[Side, str]]:
    local = {(Side.LOCAL, topic) for topic in settings.local_subscribe}
    return local | {(Side.CLOUD, topic) for topic in settings.subscribe}


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
        if len(payload) <= LITE_BYTES or isinstance(error, RefusedError):
            return error
        self._refusals += 1
        if self._refusals < REFUSALS:
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
