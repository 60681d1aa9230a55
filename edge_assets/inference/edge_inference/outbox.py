"""Messages on their way out: kept until they are published, over outages of connection and process."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from edge_inference.back_off import BackOff
from edge_inference.ipc_errors import IpcError, RefusedError
from edge_inference.spool import Spool

log = logging.getLogger(__name__)

CAPACITY = 4096
#: A message that is refused for a day is broken; an outage of the connection does not count.
GIVE_UP_S = 86_400.0
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 5.0


class Publisher(Protocol):
    """Sends one message."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish at least once.

        Args:
            topic: Exact topic.
            payload: At most 6,000 bytes.

        Raises:
            RefusedError: It will never be accepted.
            IpcError: Another attempt may work.
        """
        ...


class Outbox:
    """A bounded queue that one thread empties in order; a message leaves it when it is published, or hopeless.

    Args:
        capacity: Messages that wait at most.
        give_up_s: How long the first message may block the others before it is dropped, with an error in the log.
        clock: Monotonic seconds.
        spool: Where messages wait; in memory by default.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        give_up_s: float = GIVE_UP_S,
        clock: Callable[[], float] = time.monotonic,
        spool: Spool | None = None,
    ) -> None:
        self._capacity = capacity
        self._give_up_s = give_up_s
        self._clock = clock
        self._changed = threading.Condition()
        self._messages = Spool() if spool is None else spool
        self._publisher: Publisher | None = None
        self._closed = False
        self.dropped = 0

    def attach(self, publisher: Publisher | None) -> None:
        """Change the way out.

        Args:
            publisher: A live connection, or None while there is none.
        """
        with self._changed:
            self._publisher = publisher
            self._changed.notify_all()

    def put(self, topic: str, payload: bytes, timeout_s: float = 0) -> bool:
        """Add a message.

        Args:
            topic: Where to.
            payload: What.
            timeout_s: How long to wait for room; 0, the default, never blocks.

        Returns:
            False when there was no room: the message is dropped, counted and logged.
        """
        with self._changed:
            if self._changed.wait_for(lambda: len(self._messages) < self._capacity, timeout_s):
                self._messages.append(topic, payload)
                self._changed.notify_all()
                return True
            self.dropped += 1
        log.error("outbox full with %d answers, one for %s dropped", self._capacity, topic)
        return False

    def drain(self, timeout_s: float) -> int:
        """Wait until everything is published.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left.
        """
        with self._changed:
            self._changed.wait_for(lambda: not len(self._messages), timeout_s)
            return len(self._messages)

    @property
    def waiting(self) -> int:
        """How many messages are on their way."""
        return len(self._messages)

    @property
    def connected(self) -> bool:
        """Whether there is a way out."""
        return self._publisher is not None

    def close(self) -> None:
        """Let `run` end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Publish until closed; the body of the outbox's thread."""
        back_off = BackOff(FIRST_RETRY_S, LONGEST_RETRY_S)
        since: float | None = None
        while (head := self._head()) is not None:
            publisher, topic, payload = head
            since = self._clock() if since is None else since
            try:
                publisher.publish(topic, payload)
            except RefusedError as exc:
                self._drop(topic, str(exc))
            except IpcError as exc:
                waited_s = self._clock() - since
                if waited_s < self._give_up_s:
                    log.warning("answer on %s kept, tried for %.1f s: %s", topic, waited_s, exc)
                    self._pause(back_off.pause_s())
                    continue
                self._drop(topic, f"given up after {waited_s:.0f} s: {exc}")
            self._remove_head()
            back_off.reset()
            since = None

    def _head(self) -> tuple[Publisher, str, bytes] | None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(len(self._messages) and self._publisher))
                if self._closed or self._publisher is None:
                    return None
                message = self._messages.first()
                if message is not None:
                    return (self._publisher, *message)

    def _remove_head(self) -> None:
        with self._changed:
            self._messages.remove_first()
            self._changed.notify_all()

    def _pause(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, pause_s)

    def _drop(self, topic: str, reason: str) -> None:
        self.dropped += 1
        log.error("answer on %s dropped: %s", topic, reason)
