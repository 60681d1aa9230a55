"""The component's life: connect, serve, reconnect, and end in good order."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum

from edge_inference import configuration
from edge_inference.back_off import BackOff
from edge_inference.configuration import ConfigurationError
from edge_inference.endpoint import Endpoint
from edge_inference.ipc import Connect, IpcClient
from edge_inference.ipc_errors import IpcError, RefusedError
from edge_inference.outbox import Outbox
from edge_inference.router import Router

log = logging.getLogger(__name__)

FIRST_RECONNECT_S = 0.2
LONGEST_RECONNECT_S = 10.0
#: Without a device for so long the process ends: a device that lives starts a new one.
GIVE_UP_S = 300.0
#: A device tells each changed leaf by itself: let all of a change arrive, then read once.
SETTLE_S = 0.05
POLL_S = 0.25
FINISH_LIMIT_S = 5.0


class Event(Enum):
    """What wakes the service."""

    STOP = "stop"
    RUNTIME_CHANGED = "runtime changed"
    CONNECTION_LOST = "connection lost"
    CONFIGURATION_CHANGED = "configuration changed"


#: Checks a part of the configuration that is not a model's: raises ConfigurationError, or returns what makes it so.
Check = Callable[[object], Callable[[], None]]

ENDINGS = (Event.STOP, Event.RUNTIME_CHANGED)


class ServiceError(Exception):
    """The component cannot serve; its device should start it anew or report it as broken."""


class InferenceService:
    """Serves until it is told to stop, over as many connections as that takes.

    Args:
        connect: Makes a connection to the device.
        router: Endpoints and subscriptions.
        outbox: Answers on their way.
        checks: Of the parts of the configuration that are not models'; all pass before any takes effect, and they take
            effect before a model is loaded. Without any by default.
        is_outdated: Tells whether the process runs in an environment that has been replaced; never by default.
        on_watch: Called several times a second with the endpoints in use.
        give_up_s: How long to go without a device.
    """

    def __init__(
        self,
        connect: Connect,
        router: Router,
        outbox: Outbox,
        *,
        checks: Sequence[Check] = (),
        is_outdated: Callable[[], bool] = lambda: False,
        on_watch: Callable[[list[Endpoint]], None] = lambda _endpoints: None,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._connect = connect
        self._router = router
        self._outbox = outbox
        self._checks = checks
        self._is_outdated = is_outdated
        self._on_watch = on_watch
        self._give_up_s = give_up_s
        # SimpleQueue.put may be called from a signal handler and from the connection's thread.
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._look = threading.Event()
        self._back_off = BackOff(FIRST_RECONNECT_S, LONGEST_RECONNECT_S)
        self._served_at = time.monotonic()
        self._configured = False

    def stop(self) -> None:
        """Ask the service to end; safe in a signal handler."""
        self._events.put(Event.STOP)

    def run(self) -> Event:
        """Serve until it is time to end, then answer what waits, within 10 s.

        Returns:
            `STOP`, or `RUNTIME_CHANGED` when the process should start anew in the new environment.

        Raises:
            ServiceError: The first configuration is not usable, the device does not know this process, or there is no
                device for `give_up_s`.
        """
        threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("outbox", self._outbox.run), ("watch", self._watch))
        ]
        for thread in threads:
            thread.start()
        try:
            while True:
                ending = self._connect_and_serve() or self._ending_within(self._back_off.pause_s())
                if ending is not None:
                    return ending
                if time.monotonic() - self._served_at > self._give_up_s:
                    raise ServiceError(f"no device for {self._give_up_s:.0f} s: it must start this component anew")
        finally:
            self._ended.set()
            self._look.set()
            self._outbox.close()
            threads[0].join(FINISH_LIMIT_S)  # it brings to disk what is left

    def _connect_and_serve(self) -> Event | None:
        """Serve on one connection; None when there is none, or no longer."""
        try:
            client = self._connect(lambda: self._events.put(Event.CONNECTION_LOST))
        except RefusedError as exc:
            raise ServiceError(str(exc)) from exc
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
            self._outbox.attach(None)
            self._router.disconnected()
            client.close()

    def _serve(self, client: IpcClient) -> Event | None:
        client.watch_configuration(lambda: self._events.put(Event.CONFIGURATION_CHANGED))
        self._configure(client)
        self._outbox.attach(client)
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
            event = self._events.get()
            if event in ENDINGS:
                return event
            if event is Event.CONFIGURATION_CHANGED:
                ending = self._ending_within(SETTLE_S)
                if ending is not None:
                    return ending
                self._configure(client)
        return None

    def _configure(self, client: IpcClient) -> None:
        try:
            value = client.configuration()
            models = configuration.parse(value)
            for make_so in [check(value) for check in self._checks]:
                make_so()
            self._router.apply(client, models)
            self._look.set()
        except ConfigurationError as exc:
            if not self._configured:
                raise ServiceError(f"the configuration is not accepted:\n{exc}") from exc
            log.error("the new configuration is not accepted, the old one stays:\n%s", exc)
        self._configured = True

    def _ending_within(self, pause_s: float) -> Event | None:
        """Pause; what else happens meanwhile is seen by what follows a pause: a connection or a reading."""
        deadline = time.monotonic() + pause_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=remaining_s)
            except queue.Empty:
                break
            if event in ENDINGS:
                return event
        return None

    def _watch(self) -> None:
        told = False
        while not self._ended.is_set():
            # A new configuration does not wait for the next look.
            self._look.wait(POLL_S)
            self._look.clear()
            endpoints = self._router.endpoints
            for endpoint in endpoints:
                endpoint.store.refresh()
                endpoint.poll()
            self._on_watch(endpoints)
            if not told and self._is_outdated():
                told = True
                self._events.put(Event.RUNTIME_CHANGED)

    def _finish(self) -> None:
        unanswered = self._router.finish(FINISH_LIMIT_S)
        unpublished = self._outbox.drain(FINISH_LIMIT_S)
        for endpoint in self._router.endpoints:
            log.info("model %s: %s", endpoint.settings.name, endpoint.counts)
        if unanswered or unpublished:
            log.error("stopped with %d requests unanswered and %d answers unpublished", unanswered, unpublished)
