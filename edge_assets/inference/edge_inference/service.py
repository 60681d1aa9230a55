"""The inference component's life: models, subscriptions and the agent as the configuration says."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from edge_component.connected_service import FINISH_LIMIT_S, GIVE_UP_S, ConnectedService
from edge_component.ipc import Connect, IpcClient, RefusedError, Side, Subscription
from edge_component.outbox import Outbox
from edge_component.settings import ConfigurationError
from edge_inference.captures import Keep
from edge_inference.endpoint import Endpoint
from edge_inference.models.integrity import SigningKeys
from edge_inference.settings import AgentSettings, ModelSettings, parse, parse_agent

log = logging.getLogger(__name__)

#: A topic, and whose.
Source = tuple[Side, str]
#: Checks a part of the configuration that is not a model's: raises ConfigurationError, or returns what makes it so.
Check = Callable[[object], Callable[[], None]]


class Router:
    """Keeps endpoints and subscriptions in line with the configuration.

    `apply`, `disconnected` and `finish` are for one thread; `endpoints` for any.

    Args:
        make_endpoint: Makes and starts the endpoint of a model.
    """

    def __init__(self, make_endpoint: Callable[[ModelSettings], Endpoint]) -> None:
        self._make_endpoint = make_endpoint
        # Replaced, never changed: other threads read it.
        self._routes: Mapping[str, Endpoint] = {}
        self._subscriptions: dict[Source, Subscription] = {}

    @property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints in use."""
        return list(self._routes.values())

    def apply(self, client: IpcClient, models: Mapping[str, ModelSettings]) -> None:
        """Serve these models; those already served in the same way go on undisturbed.

        Args:
            client: A live connection.
            models: A checked configuration.

        Raises:
            ConfigurationError: The device refuses a topic; everything stays as it was.
            IpcError: The connection fails; it has to be made anew.
        """
        before = {endpoint.settings.name: endpoint for endpoint in self._routes.values()}
        after: dict[str, Endpoint] = {}
        for settings in models.values():
            endpoint = before.get(settings.name)
            reusable = endpoint is not None and endpoint.settings.component == settings.component
            after[settings.request_topic] = endpoint if endpoint and reusable else self._make_endpoint(settings)
        # A message may arrive as soon as the topic is subscribed: its route is there first.
        old_routes, self._routes = self._routes, {**self._routes, **after}
        try:
            wanted = {(side, model.request_topic) for model in models.values() for side in model.sides}
            added = self._subscribe(client, wanted - set(self._subscriptions))
        except BaseException:
            self._routes = old_routes
            _finish_unused(after.values(), old_routes.values())
            raise
        self._subscriptions.update(added)
        for settings in models.values():
            after[settings.request_topic].settings = settings
        for source in set(self._subscriptions) - wanted:
            self._subscriptions.pop(source).close()
        self._routes = after
        _finish_unused(old_routes.values(), after.values())
        log.info("serving %s", ", ".join(sorted(models)) or "no model")

    def disconnected(self) -> None:
        """Forget the subscriptions: they ended with their connection."""
        self._subscriptions = {}

    def finish(self, timeout_s: float) -> int:
        """Take nothing new, and wait until what waits is answered.

        Args:
            timeout_s: How long at most.

        Returns:
            How many messages are left unanswered.
        """
        for subscription in self._subscriptions.values():
            subscription.close()
        self._subscriptions = {}
        deadline = time.monotonic() + timeout_s
        for endpoint in self.endpoints:
            endpoint.finish()
        return sum(endpoint.join(deadline - time.monotonic()) for endpoint in self.endpoints)

    def _subscribe(self, client: IpcClient, sources: set[Source]) -> dict[Source, Subscription]:
        added: dict[Source, Subscription] = {}
        try:
            # The device's own first: while the line is cut, each of the cloud's may take its time to fail.
            for side, topic in sorted(sources, reverse=True):
                added[side, topic] = client.subscribe(topic, partial(self._route, side, topic), side)
        except BaseException as exc:
            for subscription in added.values():
                subscription.close()
            if isinstance(exc, RefusedError):
                raise ConfigurationError(str(exc)) from exc
            raise
        return added

    def _route(self, side: Side, topic: str, payload: bytes) -> None:
        endpoint = self._routes.get(topic)
        if endpoint is not None:
            endpoint.submit(payload, side)


def _finish_unused(candidates: Iterable[Endpoint], used: Iterable[Endpoint]) -> None:
    kept = list(used)
    for endpoint in candidates:
        if endpoint not in kept:
            endpoint.finish()


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

    def _accept(self, client: IpcClient, configuration: object) -> bool:
        models = parse(configuration)
        for make_so in [check(configuration) for check in self._checks]:
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
