"""Who gets a message is looked up by the levels of its topic.

MiniStack asks every subscription whether it matches, and looks through all of them to end one: with a thousand devices
of five subscriptions each, that alone is some 10 ms a message.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Any

from ministack.services import iot
from paho.mqtt.matcher import MQTTMatcher

from twin.cloud.ministack.patches import patch

Found = set[Any]

_topic: ContextVar[str | None] = ContextVar("twin_iot_topic", default=None)
"""The topic of the message that this task delivers, with its account and region before it."""

_ending: ContextVar[str | None] = ContextVar("twin_iot_ending", default=None)
"""The filter of the subscription that this task ends."""


class SubscriptionIndex(dict[str, Found]):
    """Subscriptions by filter; shows those that can match a message under delivery, and the one that is ended.

    Args:
        before: What there is already.
    """

    def __init__(self, before: dict[str, Found]) -> None:
        super().__init__()
        self._matcher = MQTTMatcher()  # type: ignore[no-untyped-call]
        self.filters: dict[str, str] = {}
        for topic_filter, found in before.items():
            self.setdefault(topic_filter, found)

    def setdefault(self, topic_filter: str, found: Found | None = None) -> Found:
        """As of a dict."""
        if topic_filter not in self:
            self[topic_filter] = set() if found is None else found
        return self[topic_filter]

    def __setitem__(self, topic_filter: str, found: Found) -> None:
        super().__setitem__(topic_filter, found)
        self._matcher[topic_filter] = topic_filter

    def pop(self, topic_filter: str, *default: Any) -> Any:
        """As of a dict."""
        if topic_filter in self:
            del self._matcher[topic_filter]  # type: ignore[no-untyped-call]
        return super().pop(topic_filter, *default)

    def clear(self) -> None:
        """As of a dict."""
        super().clear()
        self.filters.clear()
        self._matcher = MQTTMatcher()  # type: ignore[no-untyped-call]

    def values(self) -> Any:
        """Of a message's topic, a superset of what matches; else all."""
        topic = _topic.get()
        if topic is None:
            return super().values()
        return [self[found] for found in self._matching(topic)]

    def items(self) -> Any:
        """Of the subscription that ends; else all."""
        ending = _ending.get()
        if ending is None:
            return super().items()
        return [(ending, self[ending])] if ending in self else []

    def _matching(self, topic: str) -> Iterator[str]:
        matching: Iterator[str] = self._matcher.iter_match(topic)  # type: ignore[no-untyped-call]
        return matching


_index: list[SubscriptionIndex] = []


@patch("services.iot._subscriptions", why="subscribers are found by the topic's levels", signature="dict")
def _indexed(by_ministack: dict[str, Found]) -> SubscriptionIndex:
    _index[:] = [SubscriptionIndex(by_ministack)]
    return _index[0]


@patch(
    "services.iot.broker_publish",
    why="subscribers are found by the topic's levels",
    signature="async (account_id, region, topic, payload, qos=0, retain=False, properties=b'', client_id=None, "
    "principal=None)",
)
async def _publish(
    publish: Callable[..., Awaitable[None]], account_id: str, region: str, topic: str, *rest: Any, **more: Any
) -> None:
    token = _topic.set(iot._scoped_topic(account_id, region, topic))
    try:
        await publish(account_id, region, topic, *rest, **more)
    finally:
        _topic.reset(token)


@patch(
    "services.iot.broker_subscribe",
    why="a subscription is found again by its id",
    signature="async (account_id, region, topic_filter, callback, granted_qos=0, client_id=None, "
    "retain_as_published=False, retain_handling=0)",
)
async def _subscribe(
    subscribe: Callable[..., Awaitable[str]], account_id: str, region: str, topic_filter: str, *rest: Any, **more: Any
) -> str:
    identifier = await subscribe(account_id, region, topic_filter, *rest, **more)
    for index in _index:
        index.filters[identifier] = iot._scoped_topic(account_id, region, topic_filter)
    return identifier


@patch(
    "services.iot.broker_unsubscribe",
    why="the subscription that ends is found by its id",
    signature="async (subscription_id)",
)
async def _unsubscribe(unsubscribe: Callable[..., Awaitable[None]], subscription_id: str) -> None:
    token = _ending.set(next((index.filters.pop(subscription_id, None) for index in _index), None))
    try:
        await unsubscribe(subscription_id)
    finally:
        _ending.reset(token)
