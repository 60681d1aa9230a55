"""Starts and stops the agent as the configuration says, and imports nothing of it before."""

import logging
from collections.abc import Callable
from typing import Protocol

from edge_component.settings import ConfigurationError
from edge_inference.captures import Keep
from edge_inference.endpoint import Endpoint
from edge_inference.models.signature import SigningKeys
from edge_inference.settings import AgentSettings, parse_agent

log = logging.getLogger(__name__)


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
