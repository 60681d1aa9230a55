"""An outbox that does not let one publication, too large for the device, hold up all that follow it."""

from edge_component.ipc import IpcError, Publication, Publisher, RefusedError
from edge_component.outbox import Outbox

#: What nucleus lite carries in one PublishToIoTCore; the classic nucleus takes AWS IoT Core's 128 KiB.
LITE_BYTES = 6300
#: An error of nucleus lite has no message: that a publication is too large shows by its being refused again and again.
REFUSALS = 8


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
