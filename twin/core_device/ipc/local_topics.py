"""Publish/subscribe between the components of one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from twin.core_device.topic_filter import matches

from .service_model import Cancel, Message


@dataclass(frozen=True, eq=False)
class _Subscription:
    component: str
    topic_filter: str
    others_only: bool
    deliver: Callable[[str, Message], None]


@dataclass
class LocalTopics:
    """The device's local topics; a message without a subscriber is dropped."""

    _subscriptions: list[_Subscription] = field(default_factory=list)

    def publish(self, component: str, topic: str, message: Message) -> None:
        """Deliver a message to every subscription whose filter covers the topic."""
        for subscription in list(self._subscriptions):
            own = subscription.others_only and subscription.component == component
            if not own and matches(subscription.topic_filter, topic):
                subscription.deliver(topic, message)

    def subscribe(
        self, component: str, topic_filter: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        """Subscribe with MQTT wildcards; returns what ends it."""
        subscription = _Subscription(component, topic_filter, others_only, deliver)
        self._subscriptions.append(subscription)
        return lambda: self._subscriptions.remove(subscription)
