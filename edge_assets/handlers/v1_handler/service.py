"""The handler component's life: a function and its subscriptions as the configuration says."""

import logging
import os
from collections.abc import Callable
from functools import partial

from edge_component.connected_service import FINISH_LIMIT_S, ConnectedService, Event, ServiceError
from edge_component.ipc import Connect, IpcClient, Side
from edge_component.outbox import Outbox
from v1_handler import settings
from v1_handler.dispatcher import Dispatcher
from v1_handler.settings import HandlerSettings

__all__ = ["Event", "HandlerService", "ServiceError"]

log = logging.getLogger(__name__)


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

    def sides(self, topic: str) -> list[Side]:
        """Where the function may publish on a topic: nowhere, in the cloud, on the device or both."""
        settings = self._dispatcher.settings if self._dispatcher else None
        said = {Side.LOCAL: settings.local_publish, Side.CLOUD: settings.publish} if settings else {}
        return [side for side, topics in said.items() if topic in topics]

    @property
    def topics(self) -> tuple[str, ...]:
        """Topics that the function may publish on."""
        settings = self._dispatcher.settings if self._dispatcher else None
        return tuple(dict.fromkeys((*settings.publish, *settings.local_publish))) if settings else ()

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
        if self._dispatcher:
            self._dispatcher.submit(topic, payload)


def _heard(settings: HandlerSettings) -> set[tuple[Side, str]]:
    local = {(Side.LOCAL, topic) for topic in settings.local_subscribe}
    return local | {(Side.CLOUD, topic) for topic in settings.subscribe}
