"""Feeds a function: a bounded queue of events, one at a time, over as many processes as it takes."""

import base64
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_component import BackOff
from v1_handler.channel import Channel, ChannelClosedError
from v1_handler.child import function_arn, log_group
from v1_handler.settings import HandlerSettings

log = logging.getLogger(__name__)

KILL_LIMIT_S = 5.0
POLL_S = 0.25
#: A function that is not pinned is imported for an event; heavy libraries take their time.
IMPORT_LIMIT_S = 120.0
FIRST_RESTART_S = 1.0
LONGEST_RESTART_S = 60.0
#: Takes a publication (topic, payload in base64, policy); returns why it was not taken, or None.
OnPublish = Callable[[str, str, str], str | None]


class FunctionError(Exception):
    """An event that the function did not finish; the text says why."""


class FunctionEndedError(FunctionError):
    """The function's process is gone."""


@dataclass(frozen=True)
class Folders:
    """Where a function and its surroundings lie.

    Args:
        function: Its own files.
        dependencies: The packages that were bundled for it.
        shim: Holds `greengrasssdk`.
        component: Holds this package.
        version: The component's, which no nucleus tells it.
    """

    function: Path
    dependencies: Path
    shim: Path
    component: Path
    version: str = "1"

    @property
    def path(self) -> tuple[Path, ...]:
        """Where a function's imports look before Python's own modules; the shim first: it may bring V1's SDK along."""
        return self.shim, self.function, self.dependencies


def environment(folders: Folders, settings: HandlerSettings) -> Mapping[str, str]:
    """The environment of a function's process.

    Args:
        folders: Where things lie.
        settings: How the function is run; its own variables win over the device's, and lose against V1's.

    Returns:
        All variables.
    """
    return {
        **os.environ,
        **settings.environment,
        # All that the process needs to begin with: the function's own imports are looked for in `Folders.path`.
        "PYTHONPATH": str(folders.component),
        "PYTHONUNBUFFERED": "1",
        "PWD": str(folders.function),
        "LAMBDA_TASK_ROOT": str(folders.function),
        "AWS_LAMBDA_FUNCTION_NAME": settings.name,
        "AWS_LAMBDA_FUNCTION_VERSION": folders.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(settings.memory_mb),
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group(settings.name),
        "MY_FUNCTION_ARN": function_arn(settings.name, folders.version),
        "_HANDLER": settings.handler,
    }


class FunctionProcess:
    """The component's end of a process with one function; for one thread.

    Args:
        folder: The function's files; its working directory.
        path: Where its modules are looked for, before Python's own.
        environment: Of the process, complete.
        on_publish: Called from a thread of this object.
    """

    def __init__(
        self, folder: Path, path: Sequence[Path], environment: Mapping[str, str], on_publish: OnPublish
    ) -> None:
        ours, theirs = socket.socketpair()
        self._on_publish = on_publish
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.ready = False
        try:
            # -P: the function's folder must come neither before the shim of greengrasssdk nor, with a module that is
            # called like one of Python's own, before those that this package needs.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "v1_handler.child", str(theirs.fileno()), *map(str, path)],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours.detach())
        self._thread = threading.Thread(target=self._receive, name="function", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._process.kill()
            self._process.wait(KILL_LIMIT_S)
            self._channel.close()
            raise OSError(f"the system gives no thread: {exc}") from exc
        log.info("function started, pid %d", self._process.pid)

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def wait_ready(self, timeout_s: float) -> bool:
        """Wait until the function is imported.

        Args:
            timeout_s: How long at most.

        Returns:
            Whether it is.

        Raises:
            FunctionEndedError: It cannot be imported, or its process ended.
        """
        if not self.ready:
            message = self._next(timeout_s)
            if message is None:
                return False
            if "failed" in message:
                self.stop()
                raise FunctionEndedError(f"the function cannot be imported: {message['failed']}")
            self.ready = True
        return True

    def invoke(self, event: Mapping[str, Any], timeout_s: float) -> None:
        """Give it an event and wait until it is done.

        Args:
            event: `event` (a number), `payload` (base64), `encoding`, `context`.
            timeout_s: After which its process is killed.

        Raises:
            FunctionEndedError: The process ended, or was killed at the time-out.
            FunctionError: The function raised.
        """
        try:
            self._channel.send(dict(event))
        except ChannelClosedError as exc:
            raise FunctionEndedError(self._ending()) from exc
        except ValueError as exc:
            raise FunctionError(f"the event is too large: {exc}") from exc
        deadline = time.monotonic() + timeout_s
        message = self._next(timeout_s)
        # What a process that the function forked says of an earlier event is not this one's result.
        while message is not None and message.get("result") != event["event"]:
            message = self._next(max(deadline - time.monotonic(), 0))
        if message is None:
            self.stop()
            raise FunctionEndedError(f"timed out after {timeout_s:.0f} s: its process was killed")
        if (error := message.get("error")) is not None:
            raise FunctionError(str(error))

    def stop(self) -> None:
        """End the process and all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_LIMIT_S)
        self._thread.join(KILL_LIMIT_S)
        self._channel.close()

    def _next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message; None when there is none in time."""
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if message is None:
            ending = self._ending()
            self.stop()
            raise FunctionEndedError(ending)
        return message

    def _ending(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_LIMIT_S)
        code = self._process.returncode
        if code is None:
            return "its process closed its connection to the component, and was killed"
        if code >= 0:
            return f"its process ended with {code}"
        known = code in {-number for number in signal.Signals}
        return f"its process was ended by signal {signal.Signals(-code).name if known else -code}"

    def _receive(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if "publish" in message:
                    error = self._on_publish(message["topic"], message["payload"], message["policy"])
                    self._channel.send({"published": message["publish"], "error": error})
                else:
                    self._messages.put(message)
        except ChannelClosedError:
            self._messages.put(None)
        except Exception:
            # The other end runs foreign code: what it sends must not leave the component waiting.
            log.exception("the function's process sent what the component does not know")
            self._messages.put(None)


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
