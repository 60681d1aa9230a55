"""What the components' IPC calls do on this device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paho.mqtt.matcher import MQTTMatcher

from twin.clock import CLOCK
from twin.core_device.cloud.connection import Connection
from twin.core_device.components.component import Component, State
from twin.core_device.components.configuration_store import ConfigurationStore, ShapeError, StaleValueError
from twin.core_device.components.process import Tokens
from twin.core_device.errors import RequestRejectedError

from .operations import Cancel, IpcError, IpcHandler, Message, with_thing


class IpcService(IpcHandler):
    """The handler of a core device.

    Attributes:
        topics: The device's local topics.

    Args:
        tokens: Tell the components apart.
        store: Their configurations.
        save_configuration: Called after a component has changed its own.
        connection: The way to the cloud's topics.
        components: The components on the device.
        thing_name: What stands for `{iot:thingName}` in access control; None where the nucleus leaves it as text.
    """

    def __init__(
        self,
        tokens: Tokens,
        store: ConfigurationStore,
        save_configuration: Callable[[], None],
        connection: Connection,
        components: Mapping[str, Component],
        thing_name: str | None = None,
    ) -> None:
        self._tokens, self._store, self._save_configuration = tokens, store, save_configuration
        self._connection, self._components = connection, components
        self.topics, self._thing_name = LocalTopics(), thing_name
        self._subscriptions: dict[str, list[Cancel]] = {"mqtt": [], "config": [], "pubsub": []}

    def component_of(self, token: str) -> str | None:
        """The component that holds the token."""
        return self._tokens.component(token)

    def access_control(self, component: str) -> Any:
        """The component's `accessControl`, nothing when it has none."""
        try:
            access = self._store.get(component, ("accessControl",))
        except KeyError:
            return {}
        return access if self._thing_name is None else with_thing(access, self._thing_name)

    def get_configuration(self, component: str, key_path: list[str]) -> Any:
        """The value at a key path of any component."""
        try:
            return self._store.get(component, tuple(key_path))
        except KeyError as exc:
            raise IpcError("ResourceNotFoundError", "Key not found") from exc

    def update_configuration(self, component: str, key_path: list[str], value: Any, timestamp_ms: int) -> None:
        """Merge a value into the component's own configuration and keep it.

        Args:
            component: Whose.
            key_path: Where.
            value: What.
            timestamp_ms: By the component's clock, which is real: a deployment's times are the twin's.
        """
        timestamp_ms = max(timestamp_ms, round(CLOCK.at(timestamp_ms / 1000) * 1000))
        try:
            self._store.merge(component, tuple(key_path), value, timestamp_ms, strict=True)
        except StaleValueError as exc:
            text = f"Proposed timestamp is older than the config's latest modified timestamp: {exc}"
            raise IpcError("FailedUpdateConditionCheckError", text) from exc
        except ShapeError as exc:
            raise IpcError("ServiceError", str(exc)) from exc
        finally:
            self._save_configuration()

    def subscribe_to_configuration_update(
        self, component: str, key_path: list[str], deliver: Callable[[str, list[str]], None]
    ) -> Cancel:
        """Follow a part of a configuration that exists."""
        self.get_configuration(component, key_path)
        return self._known("config", self._store.subscribe(component, tuple(key_path), deliver))

    async def publish_to_iot_core(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        """Publish by the device's connection; while it is away only where the dialect keeps messages, up to a bound."""
        try:
            await self._connection.deliver(topic, payload, qos, properties)
        except RequestRejectedError as exc:
            raise IpcError("ServiceError", str(exc)) from exc

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Callable[[str, bytes], None]) -> Cancel:
        """Subscribe by the device's connection."""
        try:
            cancel = await self._connection.subscribe(topic, qos, deliver)
        except RequestRejectedError as exc:
            raise IpcError("ServiceError", str(exc)) from exc
        return self._known("mqtt", cancel)

    def forget(self, daemon: str) -> None:
        """End every subscription that a daemon of nucleus lite serves; the streams of the subscribers stay open.

        Args:
            daemon: `mqtt` (the cloud's topics), `config` or `pubsub` (local topics).
        """
        forgotten, self._subscriptions[daemon] = self._subscriptions[daemon], []
        for cancel in forgotten:
            cancel()

    def _known(self, daemon: str, cancel: Cancel) -> Cancel:
        """Note a subscription until it is ended, or forgotten."""
        self._subscriptions[daemon].append(cancel)

        def end() -> None:
            if cancel in self._subscriptions[daemon]:
                self._subscriptions[daemon].remove(cancel)
                cancel()

        return end

    def publish_to_topic(self, component: str, topic: str, message: Message) -> None:
        """Publish to the device's own components."""
        self.topics.publish(component, topic, message)

    def subscribe_to_topic(
        self, component: str, topic: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        """Follow a local topic."""
        return self._known("pubsub", self.topics.subscribe(component, topic, others_only, deliver))

    def update_state(self, component: str, state: str) -> None:
        """Note a component's own word for its state."""
        if component in self._components:
            self._components[component].report(State(state))


@dataclass(frozen=True, eq=False)
class _Subscription:
    component: str
    others_only: bool
    deliver: Callable[[str, Message], None]


class LocalTopics:
    """The device's local topics; a message without a subscriber is dropped."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, list[_Subscription]] = {}
        self._matching = MQTTMatcher()  # type: ignore[no-untyped-call]

    def publish(self, component: str, topic: str, message: Message) -> None:
        """Deliver a message to every subscription whose filter covers the topic."""
        found: list[list[_Subscription]] = list(self._matching.iter_match(topic))  # type: ignore[no-untyped-call]
        for subscription in [each for subscriptions in found for each in subscriptions]:
            if not (subscription.others_only and subscription.component == component):
                subscription.deliver(topic, message)

    def subscribe(
        self, component: str, topic_filter: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        """Subscribe with MQTT wildcards; returns what ends it."""
        subscription = _Subscription(component, others_only, deliver)
        if topic_filter not in self._subscriptions:
            self._subscriptions[topic_filter] = self._matching[topic_filter] = []
        self._subscriptions[topic_filter].append(subscription)
        return lambda: self._end(topic_filter, subscription)

    def _end(self, topic_filter: str, subscription: _Subscription) -> None:
        self._subscriptions[topic_filter].remove(subscription)
        if not self._subscriptions[topic_filter]:
            del self._subscriptions[topic_filter]
            del self._matching[topic_filter]  # type: ignore[no-untyped-call]
