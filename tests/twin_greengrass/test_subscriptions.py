"""A client's subscriptions to one filter are one."""

from __future__ import annotations

import asyncio

from ministack.services import iot

from twin.cloud.iot import subscriptions
from twin.cloud.ministack.patches import LEDGER


def test_a_message_comes_once_however_often_a_client_has_subscribed() -> None:
    heard: list[str] = []

    def hearing(who: str) -> object:
        async def hear(_topic: str, _payload: bytes, _qos: int) -> None:
            heard.append(who)

        return hear

    async def scenario() -> None:
        for who, client in (("first", "press-1"), ("second", "press-1"), ("other", "press-2"), ("service", None)):
            await iot.broker_subscribe("000000000000", "us-east-1", "plant/+", hearing(who), 1, client_id=client)
        await iot.broker_subscribe("000000000000", "us-east-1", "plant/a", hearing("exact"), 1, client_id="press-1")

        await iot.broker_publish("000000000000", "us-east-1", "plant/a", b"x", 1)

    take_back = LEDGER.apply(subscriptions.__name__)
    try:
        asyncio.run(scenario())
    finally:
        take_back()
        iot._subscriptions.clear()

    assert sorted(heard) == ["exact", "other", "second", "service"]
