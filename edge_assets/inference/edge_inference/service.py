"""The inference component's life: models, subscriptions and the agent as the configuration says."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from edge_component.connected_service import (
    FINISH_LIMIT_S,
    GIVE_UP_S,
    ConnectedService,
    Event,
    ServiceError,
)
from edge_component.ipc import Connect, IpcClient
from edge_component.outbox import Outbox
from edge_component.settings import ConfigurationError
from edge_inference import settings
from edge_inference.captures import Keep
from edge_inference.endpoint import Endpoint
from edge_inference.models.signature import SigningKeys
from edge_inference.router import Router
from edge_inference.settings import AgentSettings, parse_agent

__all__ = ["AgentSwitch", "Check", "Event", "InferenceService", "ServiceError", "start_agent"]

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


class Agent(Protocol):
    """A running agent."""

    def stop(self) -> None:
        """End it, within a few seconds."""
        ...


#: Makes and starts an agent.
Start = Callable[[AgentSettings, Callable[[], list[Endpoint]], SigningKeys, Keep], Agent]


def start_agent(
    settings: AgentSettings,
    endpoints: Callable[[], list[Endpoint]],
    keys: SigningKeys,
    keep: Keep,
) -> Agent:
    """Import the agent and start it.

    Raises:
        ConfigurationError: This device was built without it, or it cannot listen.
    """
    try:
        from edge_inference.agent.server import AgentServer, AgentServerError
    except ImportError as exc:
        raise ConfigurationError(
            f"agent must be left out: this device has no agent ({exc}), set agent.enabled in the stage's file"
        ) from exc
    try:
        return AgentServer(settings, endpoints, keys, keep)
    except AgentServerError as exc:
        raise ConfigurationError(str(exc)) from exc


class AgentSwitch:
    """Holds the agent that the configuration in force asks for; for one thread.

    Args:
        endpoints: The endpoints that the device serves now.
        keys: The signing key in force.
        keep: Takes the captures of the agent's clients.
        start: Starts an agent.
    """

    def __init__(
        self,
        endpoints: Callable[[], list[Endpoint]],
        keys: SigningKeys,
        keep: Keep,
        start: Start = start_agent,
    ) -> None:
        self._keep = keep
        self._endpoints = endpoints
        self._keys = keys
        self._start = start
        self._settings: AgentSettings | None = None
        self._agent: Agent | None = None

    def check(self, configuration: object) -> Callable[[], None]:
        """Check the part of a configuration that concerns the agent; see `Check`.

        Args:
            configuration: The component's whole configuration.

        Returns:
            Makes it so.

        Raises:
            ConfigurationError: It has mistakes.
        """
        settings = parse_agent(configuration)
        return lambda: self._apply(settings)

    def stop(self) -> None:
        """End the agent, if there is one."""
        self._apply(None)

    def _apply(self, settings: AgentSettings | None) -> None:
        if settings == self._settings:
            return
        before, self._settings = self._settings, None
        if self._agent:
            self._agent.stop()
            self._agent = None
        if settings is None:
            return
        try:
            self._agent, self._settings = self._start(settings, self._endpoints, self._keys, self._keep), settings
        except ConfigurationError:
            if before:
                log.warning("agent: going back to the settings before")
                self._agent, self._settings = self._start(before, self._endpoints, self._keys, self._keep), before
            raise
