"""A client that subscribes to the same filter again replaces its subscription (MQTT 5, section 3.8.4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ministack.services import iot

from twin.cloud.ministack.patches import patch


@patch(
    "services.iot.broker_subscribe",
    why="a message comes once, however often a client has subscribed",
    signature="async (account_id, region, topic_filter, callback, granted_qos=0, client_id=None, "
    "retain_as_published=False, retain_handling=0)",
)
async def _subscribe(
    subscribe: Callable[..., Awaitable[str]],
    account_id: str,
    region: str,
    topic_filter: str,
    *more: Any,
    client_id: str | None = None,
    **options: Any,
) -> str:
    made = await subscribe(account_id, region, topic_filter, *more, client_id=client_id, **options)
    if client_id is not None:
        among = iot._subscriptions.get(iot._scoped_topic(account_id, region, topic_filter), set())
        former = [each.subscription_id for each in among if each.client_id == client_id]
        for subscription in former:
            if subscription != made:
                await iot.broker_unsubscribe(subscription)
    return made
