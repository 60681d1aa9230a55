"""The inference component's life: models and subscriptions as the configuration says."""

import logging
from collections.abc import Callable, Sequence

from edge_component.connected_service import (
    FINISH_LIMIT_S,
    GIVE_UP_S,
    ConnectedService,
    Event,
    ServiceError,
)
from edge_component.ipc import Connect, IpcClient
from edge_component.outbox import Outbox
from edge_inference import settings
from edge_inference.endpoint import Endpoint
from edge_inference.router import Router

__all__ = ["Check", "Event", "InferenceService", "ServiceError"]

log = logging.getLogger(__name__)

#: Checks a part of the configuration that is not a model's: raises ConfigurationError, or returns what makes it so.
Check = Callable[[object], Callable[[], None]]


class InferenceService(ConnectedService):
    """Serves models; see `ConnectedService`.

    Args:
        connect: Makes a connection to the device.
        router: Endpoints and subscriptions.
        outbox: Answers on their way to the cloud.
        local: Answers on their way to other components of the device; see `ConnectedService`.
        checks: Of the parts of the configuration that are not models'; all pass before any takes effect, and they take
            effect before a model is loaded. Without any by default.
        is_outdated: Tells whether the process runs in an environment that has been replaced; never by default.
        on_watch: Called several times a second with the endpoints in use.
        give_up_s: How long to go without a device.
        may_end: Asked before the process ends because the device does not know it any more; always by default.
    """

    def __init__(
        self,
        connect: Connect,
        router: Router,
        outbox: Outbox,
        *,
        local: Outbox | None = None,
        checks: Sequence[Check] = (),
        is_outdated: Callable[[], bool] = lambda: False,
        on_watch: Callable[[list[Endpoint]], None] = lambda _endpoints: None,
        give_up_s: float = GIVE_UP_S,
        may_end: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(connect, outbox, local=local, is_outdated=is_outdated, give_up_s=give_up_s, may_end=may_end)
        self._router = router
        self._checks = checks
        self._on_watch = on_watch

    def _accept(self, client: IpcClient, configuration_: object) -> bool:
        models = settings.parse(configuration_)
        for make_so in [check(configuration_) for check in self._checks]:
            make_so()
        self._router.apply(client, models)
        return True

    def _disconnected(self) -> None:
        self._router.disconnected()

    def _observe(self) -> None:
        endpoints = self._router.endpoints
        for endpoint in endpoints:
            settings = endpoint.settings
            endpoint.store.refresh(endpoint.running, settings.approved, settings.candidate_mb)
            endpoint.poll()
        self._on_watch(endpoints)

    def _finish(self) -> None:
        unanswered = self._router.finish(FINISH_LIMIT_S)
        unpublished = self._drain()
        for endpoint in self._router.endpoints:
            log.info("model %s: %s", endpoint.settings.name, endpoint.counts)
        if unanswered or unpublished:
            log.error("stopped with %d requests unanswered and %d answers unpublished", unanswered, unpublished)
