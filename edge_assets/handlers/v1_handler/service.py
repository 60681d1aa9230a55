"""The component's life: connect, subscribe, feed the function, reconnect, and end in good order."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from enum import Enum
from functools import partial

from edge_inference.back_off import BackOff
from edge_inference.ipc import Connect, IpcClient
from edge_inference.ipc_errors import IpcError, RefusedError
from edge_inference.outbox import Outbox
from v1_handler import settings
from v1_handler.dispatcher import Dispatcher
from v1_handler.errors import ConfigurationError
from v1_handler.settings import HandlerSettings

log = logging.getLogger(__name__)

FIRST_RECONNECT_S = 0.2
LONGEST_RECONNECT_S = 10.0
#: Without a device for so long the process ends: a device that lives starts a new one.
GIVE_UP_S = 300.0
#: A device tells each changed leaf by itself: let all of a change arrive, then read once.
SETTLE_S = 0.05
STOP_LIMIT_S = 5.0


class Event(Enum):
    """What wakes the service."""

    STOP = "stop"
    CONNECTION_LOST = "connection lost"
    CONFIGURATION_CHANGED = "configuration changed"


class ServiceError(Exception):
    """The component cannot serve; its device should start it anew or report it as broken."""


class HandlerService:
    """Serves one function until it is told to stop, over as many connections as that takes.

    Args:
        connect: Makes a connection to the device.
        outbox: Publishes what the function publishes.
        make_dispatcher: Makes the dispatcher of accepted settings; it is started and stopped here.
    """

    def __init__(
        self, connect: Connect, outbox: Outbox, make_dispatcher: Callable[[HandlerSettings], Dispatcher]
    ) -> None:
        self._connect = connect
        self._outbox = outbox
        self._make_dispatcher = make_dispatcher
        # SimpleQueue.put may be called from a signal handler and from the connection's thread.
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._back_off = BackOff(FIRST_RECONNECT_S, LONGEST_RECONNECT_S)
        self._served_at = time.monotonic()
        self._dispatcher: Dispatcher | None = None

    def stop(self) -> None:
        """Ask the service to end; safe in a signal handler."""
        self._events.put(Event.STOP)

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that the function may publish on."""
        return self._dispatcher.settings.publish if self._dispatcher else ()

    def run(self) -> None:
        """Serve until `stop`, then let the event end that the function works on, within some seconds.

        Raises:
            ServiceError: The first configuration is not usable, the device does not know this process, or there is no
                device for 300 s.
        """
        threading.Thread(target=self._outbox.run, name="outbox", daemon=True).start()
        try:
            while not self._serve_once() and not self._pause(self._back_off.pause_s()):
                if time.monotonic() - self._served_at > GIVE_UP_S:
                    raise ServiceError(f"no device for {GIVE_UP_S:.0f} s: it must start this component anew")
        finally:
            self._outbox.close()
            if self._dispatcher:
                self._dispatcher.stop(STOP_LIMIT_S)

    def _serve_once(self) -> bool:
        """Serve on one connection; whether the service is to end."""
        try:
            client = self._connect(lambda: self._events.put(Event.CONNECTION_LOST))
        except RefusedError as exc:
            raise ServiceError(str(exc)) from exc
        except IpcError as exc:
            log.warning("%s", exc)
            return False
        try:
            client.watch_configuration(lambda: self._events.put(Event.CONFIGURATION_CHANGED))
            return self._follow(client)
        except RefusedError as exc:
            raise ServiceError(str(exc)) from exc
        except IpcError as exc:
            log.warning("%s", exc)
            return False
        finally:
            self._served_at = time.monotonic()
            self._outbox.attach(None)
            client.close()

    def _follow(self, client: IpcClient) -> bool:
        self._configure(client)
        subscribed = self._subscribe(client)
        self._outbox.attach(client)
        self._back_off.reset()
        while not client.lost:
            event = self._events.get()
            if event is Event.STOP:
                if self._dispatcher:
                    self._dispatcher.stop(STOP_LIMIT_S)
                self._outbox.drain(STOP_LIMIT_S)
                return True
            if event is Event.CONFIGURATION_CHANGED:
                if self._pause(SETTLE_S):
                    return True
                self._configure(client)
                if self._dispatcher and set(self._dispatcher.settings.subscribe) != subscribed:
                    # The simplest way to end subscriptions: a connection of its own for each set of them.
                    return False
        return False

    def _subscribe(self, client: IpcClient) -> set[str]:
        topics = set(self._dispatcher.settings.subscribe) if self._dispatcher else set()
        for topic in sorted(topics):
            client.subscribe(topic, partial(self._submit, topic))
        log.info("listening on %s", ", ".join(sorted(topics)) or "no topic")
        return topics

    def _submit(self, topic: str, payload: bytes) -> None:
        if self._dispatcher:
            self._dispatcher.submit(topic, payload)

    def _configure(self, client: IpcClient) -> None:
        try:
            wanted = settings.parse(client.configuration())
        except ConfigurationError as exc:
            if self._dispatcher is None:
                raise ServiceError(f"the configuration is not accepted:\n{exc}") from exc
            log.error("the new configuration is not accepted, the old one stays:\n%s", exc)
            return
        if self._dispatcher and self._dispatcher.settings == wanted:
            return
        before, self._dispatcher = self._dispatcher, self._make_dispatcher(wanted)
        if before:
            before.stop(STOP_LIMIT_S)
        self._dispatcher.start(before)
        log.info("function %s: %s, %s", wanted.name, wanted.handler, "pinned" if wanted.pinned else "on demand")

    def _pause(self, pause_s: float) -> bool:
        """Pause; whether the service is to end. What else happens is seen by what follows a pause."""
        deadline = time.monotonic() + pause_s
        while (remaining_s := deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=remaining_s)
            except queue.Empty:
                return False
            if event is Event.STOP:
                return True
        return False
