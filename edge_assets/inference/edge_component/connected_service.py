"""A component's life, whatever it does: connect, serve, reconnect, and end in good order."""

# ruff: noqa: B027 - hooks do nothing unless a component has something to do

import contextlib
import logging
import os
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum
from urllib.parse import urlsplit

from edge_component import BackOff
from edge_component.ipc import Connect, IpcClient, IpcError, RefusedError
from edge_component.outbox import Outbox
from edge_component.settings import ConfigurationError

log = logging.getLogger(__name__)

FIRST_RECONNECT_S = 0.2
LONGEST_RECONNECT_S = 10.0
#: Without a device for so long the process ends: a device that lives starts a new one.
GIVE_UP_S = 30.0
#: Without a message for so long the subscriptions are made anew: each costs a message of AWS IoT. So often, too, what
#: the device may have forgotten to tell is read.
RENEW_S = 40.0
#: How often within that time to look whether it is over, and to try again what waits for the cloud.
RENEWALS = 8
#: A device tells each changed leaf by itself, and nucleus lite resets before it merges: let all of a change arrive,
#: then read once.
SETTLE_S = 0.25
POLL_S = 0.25
#: No wait is longer: where a signal comes just before one begins, its handler runs only when that wait has ended.
SIGNAL_S = 0.5
FINISH_LIMIT_S = 5.0


class Event(Enum):
    """What wakes the service."""

    STOP = "stop"
    RUNTIME_CHANGED = "runtime changed"
    CONNECTION_LOST = "connection lost"
    CONFIGURATION_CHANGED = "configuration changed"
    RENEWAL_DUE = "renewal due"


ENDINGS = (Event.STOP, Event.RUNTIME_CHANGED)


class ServiceError(Exception):
    """The component cannot serve; its device should start it anew or report it as broken."""


class ConnectedService(ABC):
    """Serves until it is told to stop, over as many connections as that takes.

    Args:
        connect: Makes a connection to the device.
        outbox: Messages on their way to the cloud.
        local: Messages on their way to other components of the device, which a cut line to the cloud does not hold
            back; by default an outbox of its own that nobody fills.
        is_outdated: Tells whether the process runs in an environment that has been replaced; never by default.
        give_up_s: How long to go without a device.
        may_end: Asked before the process ends because the device does not know it any more; always by default.
    """

    def __init__(
        self,
        connect: Connect,
        outbox: Outbox,
        *,
        local: Outbox | None = None,
        is_outdated: Callable[[], bool] = lambda: False,
        give_up_s: float = GIVE_UP_S,
        may_end: Callable[[], bool] = lambda: True,
    ) -> None:
        self._connect = connect
        self._outbox = outbox
        self._local = Outbox() if local is None else local
        self._is_outdated = is_outdated
        self._give_up_s = give_up_s
        self._may_end = may_end
        self._renew_s = RENEW_S
        # SimpleQueue.put may be called from a signal handler and from the connection's thread.
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._look = threading.Event()
        # Asked for and not done yet: a device that does not answer must not let renewals pile up.
        self._renewal_asked = threading.Event()
        self._back_off = BackOff(FIRST_RECONNECT_S, LONGEST_RECONNECT_S)
        self._served_at = time.monotonic()
        self._configured = False
        self._client: IpcClient | None = None
        self._read: object = None
        self._read_at = time.monotonic()

    @property
    def unheard(self) -> list[str]:
        """Topics of the cloud that the device could not subscribe to so far; from any thread."""
        client = self._client
        return [] if client is None else client.unheard

    def stop(self) -> None:
        """Ask the service to end; safe in a signal handler."""
        self._events.put(Event.STOP)

    def look(self) -> None:
        """Ask the service to look around at once; from any thread."""
        self._look.set()

    def run(self) -> Event:
        """Serve until it is time to end, then finish what waits, within 10 s.

        Returns:
            `STOP`, or `RUNTIME_CHANGED` when the process should start anew in the new environment.

        Raises:
            ServiceError: The first configuration is not usable, the device does not know this process, or there is no
                device for `give_up_s`.
        """
        outboxes = {"outbox": self._outbox, "local-outbox": self._local}
        publishing = [threading.Thread(target=box.run, name=name, daemon=True) for name, box in outboxes.items()]
        for thread in publishing:
            thread.start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        try:
            while True:
                ending = self._serve_once() or self._ending_within(self._back_off.pause_s())
                if ending is not None:
                    return ending
                if time.monotonic() - self._served_at > self._give_up_s:
                    self._end_or_go_on(f"no device for {self._give_up_s:.0f} s: it must start this component anew")
        finally:
            self._ended.set()
            self._look.set()
            self._closed()
            for box in outboxes.values():
                box.close()
            for thread in publishing:
                thread.join(FINISH_LIMIT_S)  # it brings to disk what is left

    @abstractmethod
    def _accept(self, client: IpcClient, configuration: object) -> bool:
        """Check a configuration as a whole, then make it so.

        Returns:
            False when it takes a new connection to serve in this way.

        Raises:
            ConfigurationError: It is not accepted; everything stays as it was.
            IpcError: The connection fails.
        """

    @abstractmethod
    def _finish(self) -> None:
        """Finish what waits, in a bounded time: the service ends, with a connection."""

    def _begin(self, client: IpcClient) -> None:
        """A new connection, configured: what it needs besides; nothing by default."""

    def _disconnected(self) -> None:
        """The connection is gone; nothing to do by default."""

    def _closed(self) -> None:
        """The service has ended; nothing to do by default."""

    def _observe(self) -> None:
        """Look around, several times a second, from a thread of its own; nothing by default."""

    def _serve_once(self) -> Event | None:
        """Serve on one connection; None when there is none, or no longer."""
        try:
            client = self._connect(lambda: self._events.put(Event.CONNECTION_LOST))
        except RefusedError as exc:
            if not self._configured:
                raise ServiceError(str(exc)) from exc
            self._end_or_go_on(str(exc))
            return None
        except IpcError as exc:
            log.warning("%s", exc)
            return None
        try:
            return self._serve(client)
        except RefusedError as exc:
            raise ServiceError(str(exc)) from exc
        except IpcError as exc:
            log.warning("%s", exc)
            return None
        finally:
            self._client = None
            self._outbox.attach(None)
            self._local.attach(None)
            self._disconnected()
            client.close()

    def _end_or_go_on(self, reason: str) -> None:
        """End for a device that has forgotten this process, unless it would be the end for good."""
        if self._may_end():
            raise ServiceError(reason)
        log.error("%s; ended too often within the hour for the device to start it again, so it goes on trying", reason)
        self._served_at = time.monotonic()

    def _serve(self, client: IpcClient) -> Event | None:
        client.watch_configuration(lambda: self._events.put(Event.CONFIGURATION_CHANGED))
        # Before the topics of the cloud are asked for, which takes its time while the line is cut.
        self._local.attach(client.local)
        self._client = client
        self._configure(client)
        self._begin(client)
        self._outbox.attach(client)
        _report_running(client)
        self._back_off.reset()
        try:
            ending = self._follow(client)
        finally:
            self._served_at = time.monotonic()
        if ending is not None:
            self._finish()
        return ending

    def _follow(self, client: IpcClient) -> Event | None:
        while not client.lost:
            event = self._next(SIGNAL_S)
            if event in ENDINGS:
                return event
            if event is Event.RENEWAL_DUE:
                self._renewal_asked.clear()
                client.renew(self._renew_s)
                event = self._untold(client) or event
                if event in ENDINGS:
                    return event
            if event is Event.CONFIGURATION_CHANGED:
                ending = self._ending_within(SETTLE_S)
                if ending is not None:
                    return ending
                if not self._configure(client):
                    return None
        return None

    def _next(self, within_s: float) -> Event | None:
        with contextlib.suppress(queue.Empty):
            return self._events.get(timeout=within_s)
        return None

    def _untold(self, client: IpcClient) -> Event | None:
        """What has changed without a word; nucleus lite tells nothing any more once its daemons have started anew."""
        if time.monotonic() - self._read_at < self._renew_s:
            return None
        self._read_at = time.monotonic()
        try:
            if _credentials_moved(client):
                return Event.RUNTIME_CHANGED
            return Event.CONFIGURATION_CHANGED if client.configuration() != self._read else None
        except IpcError as exc:
            # The next time, then.
            log.info("%s", exc)
            return None

    def _configure(self, client: IpcClient) -> bool:
        same_connection = True
        self._read, self._read_at = client.configuration(), time.monotonic()
        try:
            same_connection = self._accept(client, self._read)
            # A new configuration does not wait for the next look.
            self.look()
        except ConfigurationError as exc:
            if not self._configured:
                raise ServiceError(f"the configuration is not accepted:\n{exc}") from exc
            log.error("the new configuration is not accepted, the old one stays:\n%s", exc)
        self._configured = True
        return same_connection

    def _ending_within(self, pause_s: float) -> Event | None:
        """Pause; what else happens meanwhile is seen by what follows a pause: a connection or a reading."""
        deadline = time.monotonic() + pause_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            event = self._next(min(remaining_s, SIGNAL_S))
            if event in ENDINGS:
                return event
            if event is Event.RENEWAL_DUE:
                self._renewal_asked.clear()
        return None

    def _drain(self) -> int:
        """Wait until nothing is on its way; returns how much still is after 5 s."""
        deadline = time.monotonic() + FINISH_LIMIT_S
        return sum(box.drain(max(deadline - time.monotonic(), 0)) for box in (self._local, self._outbox))

    def _watch(self) -> None:
        told = False
        renew_at = time.monotonic() + self._renew_s / RENEWALS
        while not self._ended.is_set():
            if time.monotonic() >= renew_at:
                renew_at = time.monotonic() + self._renew_s / RENEWALS
                if not self._renewal_asked.is_set():
                    self._renewal_asked.set()
                    self._events.put(Event.RENEWAL_DUE)
            self._look.wait(POLL_S)
            self._look.clear()
            try:
                self._observe()
            except Exception:
                # This thread follows models, cameras and the runtime, too: it must not end.
                log.exception("looking around failed")
            if not told and self._is_outdated():
                told = True
                self._events.put(Event.RUNTIME_CHANGED)


def run_process(
    service: ConnectedService, restart: Callable[[], object], ended: Callable[[], None] = lambda: None
) -> int:
    """Serve until a signal ends the process, or until it starts anew in another environment.

    Args:
        service: What the process does.
        restart: Starts the same command in the new environment.
        ended: Called once the service has ended, however it did; nothing by default.

    Returns:
        Exit code: 0 stopped by a signal, 1 with the reason in the log.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    try:
        ending = service.run()
    except ServiceError as exc:
        log.error("%s", exc)
        return 1
    finally:
        ended()
    if ending is Event.RUNTIME_CHANGED:
        restart()
    log.info("stopped")
    return 0


TOKEN_EXCHANGE = "aws.greengrass.TokenExchangeService"  # noqa: S105 - a component's name
CREDENTIALS_URL = "AWS_CONTAINER_CREDENTIALS_FULL_URI"


def _credentials_moved(client: IpcClient) -> bool:
    """Follow the device's credentials to another port.

    Nucleus lite's token exchange takes any free port whenever it starts, and its components keep the one before.

    Returns:
        Whether the process must start anew, in the environment as it is now.
    """
    before = os.environ.get(CREDENTIALS_URL)
    if not before:
        return False
    try:
        found = client.configuration_of(TOKEN_EXCHANGE)
    except RefusedError:
        return False
    port = str(found.get("port", "")) if isinstance(found, Mapping) else ""
    parts = urlsplit(before)
    # The classic nucleus has 0 there, for any.
    if not port.isdecimal() or int(port) in (0, parts.port):
        return False
    os.environ[CREDENTIALS_URL] = parts._replace(netloc=f"{parts.hostname}:{port}").geturl()
    log.warning("the device's credentials are at port %s now", port)
    return True


def _report_running(client: IpcClient) -> None:
    try:
        client.report_running()
    except IpcError as exc:
        # A device that does not take it watches the process instead.
        log.info("%s", exc)
