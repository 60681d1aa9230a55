"""Messages on their way out: kept until they are published, in memory or on disk, over outages and kills."""

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edge_component import BackOff
from edge_component.ipc import IpcError, Publication, Publisher, RefusedError

log = logging.getLogger(__name__)

CAPACITY = 4096
#: A message that is refused for a day is broken; an outage of the connection does not count.
GIVE_UP_S = 86_400.0
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 5.0
#: Room that is kept for those who have just asked for it.
RESERVE = 64
#: What is not published within this time goes to disk; nearly everything is, so that the disk rests.
KEEP_AFTER_S = 0.1
LONGEST_KEEP_PAUSE_S = 10.0
#: So many leave together when others follow: waking up for each costs the processor as much as publishing it.
GROUP = 8
#: After a failure so many leave one by one: nucleus lite takes few at once, and what is behind a failure arrives twice.
SINGLY = 1000
TABLE = "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, payload BLOB)"


@dataclass(frozen=True)
class _Message:
    topic: str
    payload: bytes
    on_safe: Callable[[], None] | None = None


class Spool:
    """A first-in first-out store of messages on disk.

    A file that is damaged is put aside and a new one begun. Safe from any thread.

    Args:
        file: The store; None for one that takes nothing.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._file = file
        self._published = 0
        self._database = _open(file) if file else None
        self._on_disk = self._counted()

    def __len__(self) -> int:
        # Read by those who must not wait for the disk: without the lock.
        return self._on_disk

    def extend(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Add messages behind all others, all of them or none.

        Args:
            messages: Topic and payload of each.

        Returns:
            False when the disk is full or broken; the reason is logged.
        """
        with self._lock:
            if self._database is None and self._file is not None:
                self._database, self._published = _open(self._file), 0
                self._on_disk = self._counted()
            if self._database is None:
                return False
            try:
                self._write(self._database, messages)
            except sqlite3.Error as exc:
                log.error("%d messages wait in memory, the spool cannot be written: %s", len(messages), exc)
                return False
            self._on_disk += len(messages)
            return True

    def first(self) -> tuple[str, bytes] | None:
        """Get the oldest message, which stays.

        Returns:
            Topic and payload, or None when there is none.
        """
        with self._lock:
            row = self._row()
            return None if row is None else (row[1], row[2])

    def remove_first(self, topic: str, payload: bytes) -> None:
        """Forget the oldest message, which is published, if it is this one.

        The oldest may be another: of a file that could be opened only now, or of the one that follows a damaged file.
        This one may then be published again.

        Args:
            topic: Where it went.
            payload: What it was.
        """
        with self._lock:
            row = self._row()
            if row is None or (row[1], row[2]) != (topic, payload):
                return
            # Remembered, too: a delete that fails on a full disk must not publish the message for ever.
            self._published = row[0]
            self._on_disk -= 1
            with contextlib.suppress(sqlite3.Error):
                if self._database is not None:
                    self._database.execute("DELETE FROM messages WHERE number <= ?", (self._published,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._database is not None:
                self._database.close()
                self._database, self._file, self._on_disk = None, None, 0

    def _write(self, database: sqlite3.Connection, messages: Sequence[tuple[str, bytes]]) -> None:
        try:
            database.execute("BEGIN IMMEDIATE")
            # What a full disk did not let go of.
            database.execute("DELETE FROM messages WHERE number <= ?", (self._published,))
            database.executemany("INSERT INTO messages (topic, payload) VALUES (?, ?)", messages)
            database.execute("COMMIT")
        except sqlite3.Error:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _row(self) -> tuple[int, str, bytes] | None:
        if self._database is None or not self._on_disk:
            return None
        query = "SELECT number, topic, payload FROM messages WHERE number > ? ORDER BY number LIMIT 1"
        try:
            row: tuple[int, str, bytes] | None = self._database.execute(query, (self._published,)).fetchone()
        except sqlite3.Error as exc:
            log.error("%d messages cannot be published, the spool cannot be read: %s", self._on_disk, exc)
            # Opened anew with the next messages, unless it is damaged.
            self._database.close()
            self._database = row = None
            _put_aside(self._file, exc)
        if row is None:
            self._on_disk = 0
        return row

    def _counted(self) -> int:
        if self._database is None:
            return 0
        return int(self._database.execute("SELECT count(*) FROM messages").fetchone()[0])


class Outbox:
    """A bounded queue that one thread empties in order; a message leaves it when it is published, or hopeless.

    Messages are in memory first: while the connection works, the disk is not touched and nothing waits for it. What is
    not published within 0.1 s is written to the spool, many messages at once, by the outbox's own thread.

    Args:
        capacity: Messages that wait at most.
        give_up_s: How long the first message may block the others before it is dropped, with an error in the log.
        clock: Monotonic seconds.
        spool: Where messages wait that are not published at once; nowhere but in memory by default.
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
        # All of the spool comes before all of the memory. Only the outbox's thread takes messages out of either.
        self._spool = Spool() if spool is None else spool
        self._memory: deque[_Message] = deque()
        self._publisher: Publisher | None = None
        self._closed = False
        self._held = False
        self._keep_at = 0.0
        self._keep_pauses = BackOff(KEEP_AFTER_S, LONGEST_KEEP_PAUSE_S)
        self.dropped = 0

    def attach(self, publisher: Publisher | None) -> None:
        """Change the way out.

        Args:
            publisher: A live connection, or None while there is none.
        """
        with self._changed:
            self._publisher = publisher
            self._changed.notify_all()

    def put(
        self,
        topic: str,
        payload: bytes,
        timeout_s: float = 0,
        on_safe: Callable[[], None] | None = None,
        *,
        more: bool = False,
    ) -> bool:
        """Add a message; no disk is waited for.

        Args:
            topic: Where to.
            payload: What.
            timeout_s: How long to wait for room; 0, the default, never blocks.
            on_safe: Called once, from the outbox's thread, when a kill can no longer lose the message: it is on disk or
                published, or hopeless. Never after False. By default nobody is told.
            more: Whether others follow at once, for which this one may wait: until there are eight, 0.1 s at most.

        Returns:
            False when there was no room: the message is dropped, counted and logged.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self.waiting < self._capacity, timeout_s):
                begins = not self.waiting
                self._memory.append(_Message(topic, payload, on_safe))
                self._held = more and (begins or self._held) and len(self._memory) < GROUP
                if begins or not self._held:
                    self._changed.notify_all()
                return True
            self.dropped += 1
        log.error("outbox full with %d answers, one for %s dropped", self._capacity, topic)
        return False

    def drain(self, timeout_s: float) -> int:
        """Wait until nothing is left.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left; those on disk are published by the next process.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self.waiting, timeout_s)
            return self.waiting

    @property
    def waiting(self) -> int:
        """How many messages are on their way."""
        return len(self._spool) + len(self._memory)

    @property
    def has_room(self) -> bool:
        """Whether whoever asks now finds room, others that ask at the same time included."""
        return self.waiting < self._capacity - min(RESERVE, self._capacity // 8)

    @property
    def connected(self) -> bool:
        """Whether there is a way out."""
        return self._publisher is not None

    def close(self) -> None:
        """Let `run` end, with what is left on disk."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Publish until closed; the body of the outbox's thread."""
        back_off = BackOff(FIRST_RETRY_S, LONGEST_RETRY_S)
        since: float | None = None
        before: Publisher | None = None
        singly = 0
        while (found := self._next(1 if singly else GROUP)) is not None:
            publisher, messages = found
            if publisher is not before:
                since, before = None, publisher
            begun = _begun(publisher, messages)
            for message, publication in zip(messages, begun, strict=False):
                since = self._clock() if since is None else since
                try:
                    self._wait(publication)
                except RefusedError as exc:
                    self._drop(message.topic, str(exc))
                except IpcError as exc:
                    waited_s = self._clock() - since
                    if waited_s < self._give_up_s:
                        log.warning("answer on %s kept, tried for %.1f s: %s", message.topic, waited_s, exc)
                        self._keep()
                        self._pause(back_off.pause_s())
                        # Those behind it are published again, too, so that the last to arrive is the newest.
                        singly = SINGLY
                        break
                    self._drop(message.topic, f"given up after {waited_s:.0f} s: {exc}")
                self._remove(message)
                back_off.reset()
                since, singly = None, max(singly - 1, 0)
        self._keep_at = 0.0
        self._keep()

    def _next(self, most: int) -> tuple[Publisher, list[_Message]] | None:
        """The way out, and what is to be published next: the oldest on disk, or what waits in memory, up to so many."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._memory or self._may_publish())
                # Without a way out, what comes within a moment goes to disk together; with one, it leaves together.
                self._changed.wait_for(lambda: self._closed or self._may_publish(), KEEP_AFTER_S)
                self._held = False
                if self._closed:
                    return None
                publisher = self._publisher
            if publisher is None:
                self._keep()
                continue
            kept = self._spool.first()
            if kept is not None:
                return publisher, [_Message(*kept)]
            with self._changed:
                waiting = list(islice(self._memory, most))
            if waiting:
                return publisher, waiting

    def _wait(self, publication: Publication) -> None:
        while not publication.wait(KEEP_AFTER_S):
            self._keep()

    def _may_publish(self) -> bool:
        return bool(self._publisher and self.waiting) and not self._held

    def _keep(self) -> None:
        """Bring to disk what is in memory, all in one write; a disk that refuses is asked again later."""
        if not self._memory or self._clock() < self._keep_at:
            return
        messages = list(self._memory)
        if not self._spool.extend([(message.topic, message.payload) for message in messages]):
            self._keep_at = self._clock() + self._keep_pauses.pause_s()
            return
        self._keep_pauses.reset()
        with self._changed:
            for _ in messages:
                self._memory.popleft()
        for message in messages:
            _tell(message)

    def _remove(self, head: _Message) -> None:
        # It may have gone to disk since it was taken from memory.
        in_memory = bool(self._memory) and self._memory[0] is head
        if not in_memory:
            self._spool.remove_first(head.topic, head.payload)
        with self._changed:
            if in_memory:
                self._memory.popleft()
            self._changed.notify_all()
        if in_memory:
            _tell(head)

    def _pause(self, pause_s: float) -> None:
        until = self._clock() + pause_s
        while not self._closed and (left_s := until - self._clock()) > 0:
            with self._changed:
                self._changed.wait_for(lambda: self._closed, min(left_s, KEEP_AFTER_S))
            self._keep()

    def _drop(self, topic: str, reason: str) -> None:
        self.dropped += 1
        log.error("answer on %s dropped: %s", topic, reason)


class _Failed:
    """A publication that has not begun."""

    def __init__(self, failure: IpcError) -> None:
        self._failure = failure

    def wait(self, timeout_s: float) -> bool:  # noqa: ARG002 - as a publication has it
        """Raise what kept it; see `Publication.wait`."""
        raise self._failure


def _begun(publisher: Publisher, messages: Sequence[_Message]) -> list[Publication]:
    """Begin to publish in order, up to the first that cannot be begun for now."""
    begun: list[Publication] = []
    for message in messages:
        try:
            begun.append(publisher.publish(message.topic, message.payload))
        except IpcError as exc:
            begun.append(_Failed(exc))
            if not isinstance(exc, RefusedError):
                break
    return begun


def _tell(message: _Message) -> None:
    if message.on_safe is None:
        return
    try:
        message.on_safe()
    except Exception:
        log.exception("after the answer on %s was safe", message.topic)


def _open(file: Path) -> sqlite3.Connection | None:
    """Open the store; a damaged one is put aside, and without a usable disk there is none."""
    for attempt in range(2):
        try:
            return _connected(file)
        except (sqlite3.Error, OSError) as exc:
            log.error("the spool %s cannot be used: %s", file, exc)
            if attempt == 0:
                _put_aside(file, exc)
    return None


def _put_aside(file: Path | None, error: Exception) -> None:
    """Make room for a new store; a full disk or a missing right (OperationalError) leaves good messages there."""
    if file and isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.OperationalError):
        with contextlib.suppress(OSError):
            file.replace(file.with_suffix(".damaged"))


def _connected(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(file, timeout=1, isolation_level=None, check_same_thread=False)
    # A topic that the disk has garbled is refused; unread, it would hold up all that is behind it.
    database.text_factory = lambda text: text.decode(errors="replace")
    try:
        # Write-ahead log without a sync a message: a killed process loses nothing, a power cut the last moments.
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("PRAGMA cache_size=-512")
        database.execute(TABLE)
        database.execute("SELECT count(*) FROM messages").fetchone()
    except sqlite3.Error:
        database.close()
        raise
    return database
