"""Which endpoint gets which message: the accepted configuration, put to work."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from edge_component.ipc import IpcClient, RefusedError, Side, Subscription
from edge_component.settings import ConfigurationError
from edge_inference.endpoint import Endpoint
from edge_inference.settings import ModelSettings

log = logging.getLogger(__name__)


#: A topic, and whose.
Source = tuple[Side, str]


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
