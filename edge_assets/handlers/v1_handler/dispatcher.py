"""Feeds a function: a bounded queue of events, one at a time, over as many processes as it takes."""

import base64
import logging
import queue
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from typing import Any

from edge_component.back_off import BackOff
from v1_handler.function_process import (
    Folders,
    FunctionEndedError,
    FunctionError,
    FunctionProcess,
    OnPublish,
    environment,
)
from v1_handler.settings import HandlerSettings

log = logging.getLogger(__name__)

POLL_S = 0.25
#: A function that is not pinned is imported for an event; heavy libraries take their time.
IMPORT_LIMIT_S = 120.0
FIRST_RESTART_S = 1.0
LONGEST_RESTART_S = 60.0


@dataclass
class Counts:
    """What a function has done since the component started."""

    handled: int = 0
    failed: int = 0
    dropped: int = 0


class Dispatcher:
    """Gives events to a function; `submit` is for any thread, `run` for one.

    Args:
        settings: How the function is run.
        folders: Where it lies.
        on_publish: Takes what it publishes.
    """

    def __init__(self, settings: HandlerSettings, folders: Folders, on_publish: OnPublish) -> None:
        self.settings = settings
        self.counts = Counts()
        self._folders = folders
        self._on_publish = on_publish
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue(settings.queue_size)
        # Events of the dispatcher before this one: older than any of the queue.
        self._adopted: deque[tuple[str, bytes]] = deque()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)
        self._process: FunctionProcess | None = None
        self._restart = BackOff(FIRST_RESTART_S, LONGEST_RESTART_S)
        self._restart_at = 0.0
        self._used_at = time.monotonic()

    def start(self, before: "Dispatcher | None" = None) -> None:
        """Start; a pinned function is imported at once.

        Args:
            before: A stopped dispatcher whose events are taken over.
        """
        if before:
            self.counts = before.counts
            self._adopted = before._waiting()
        self._thread.start()

    def submit(self, topic: str, payload: bytes) -> None:
        """Take an event; called from the connection's thread, so it never blocks and never raises."""
        try:
            self._events.put_nowait((topic, payload))
        except queue.Full:
            self.counts.dropped += 1
            log.error("event from %s dropped, %d wait already", topic, self.settings.queue_size)

    def stop(self, timeout_s: float) -> None:
        """End the function, after the event that it works on.

        Args:
            timeout_s: How long at most.
        """
        self._stopped.set()
        self._thread.join(timeout_s)
        process = self._process
        if process and self._thread.is_alive():
            process.stop()
        waiting = self._events.qsize() + len(self._adopted)
        log.info("function %s: %s, %d events wait", self.settings.name, self.counts, waiting)

    def _waiting(self) -> deque[tuple[str, bytes]]:
        events = self._adopted
        while not self._events.empty():
            events.append(self._events.get_nowait())
        return events

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._step()
        finally:
            if self._process:
                self._process.stop()

    def _step(self) -> None:
        if self.settings.pinned and not self._keep_alive():
            self._stopped.wait(POLL_S)
            return
        try:
            topic, payload = self._adopted.popleft() if self._adopted else self._events.get(timeout=POLL_S)
        except queue.Empty:
            self._end_idle()
            return
        try:
            self._handle(topic, payload)
            self.counts.handled += 1
        except Exception as exc:
            # Whatever one event does, the next ones are handled: without this thread the component would be deaf.
            self.counts.failed += 1
            log.error("event from %s failed: %s", topic, exc, exc_info=not isinstance(exc, FunctionError))
            if isinstance(exc, FunctionEndedError):
                self._ended()
        self._used_at = time.monotonic()

    def _keep_alive(self) -> bool:
        """Start a pinned function, again if it ended; whether it takes events now."""
        # One that ends before it is ready says why, below.
        if self._process and self._process.ready and not self._process.running:
            log.error("the function's process ended by itself")
            self._process.stop()
            self._ended()
        if self._process is None:
            if time.monotonic() < self._restart_at:
                return False
            self._start()
        try:
            # A function may well work for ever at import: that is how some pinned ones are written.
            ready = self._process is not None and self._process.wait_ready(POLL_S)
        except FunctionEndedError as exc:
            log.error("%s", exc)
            self._ended()
            return False
        if ready:
            self._restart.reset()
        return ready

    def _handle(self, topic: str, payload: bytes) -> None:
        if self._process is None or not self._process.running:
            self._start()
        process = self._process
        if process is None:
            raise FunctionError("the function's process cannot be started (the reason is above)")
        if not process.wait_ready(IMPORT_LIMIT_S):
            process.stop()
            raise FunctionEndedError(
                f"the function was not imported within {IMPORT_LIMIT_S:.0f} s: pin one that works for ever"
            )
        process.invoke(self._event(topic, payload), self.settings.timeout_s)

    def _event(self, topic: str, payload: bytes) -> dict[str, Any]:
        settings = self.settings
        return {
            "event": self.counts.handled + self.counts.failed,
            "payload": base64.b64encode(payload).decode("ascii"),
            "encoding": settings.encoding,
            "context": {
                "name": settings.name,
                "version": self._folders.version,
                "memoryMb": settings.memory_mb,
                "requestId": str(uuid.uuid4()),
                "subject": topic,
                "timeoutSeconds": settings.timeout_s,
            },
        }

    def _start(self) -> None:
        try:
            self._process = FunctionProcess(
                self._folders.function,
                self._folders.path,
                environment(self._folders, self.settings),
                self._on_publish,
            )
        except OSError as exc:
            log.error("the function's process cannot be started: %s", exc)
            self._ended()

    def _ended(self) -> None:
        self._process = None
        self._restart_at = time.monotonic() + self._restart.pause_s()

    def _end_idle(self) -> None:
        process = self._process
        idle_s = time.monotonic() - self._used_at
        if process and not self.settings.pinned and idle_s >= self.settings.idle_s:
            log.info("function ended after %.0f s without an event", idle_s)
            process.stop()
            self._process = None
