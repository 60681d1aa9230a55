"""MQTT sessions as IoT Core ends and serves them, where MiniStack does otherwise."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from ministack.services import iot

from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_periodic
from twin.cloud.settings import Settings

logger = logging.getLogger("twin.iot")

_LOOK_S = 1.0
#: The Maximum Packet Size of the CONNECT that this task is working on.
_asked_bytes: ContextVar[int | None] = ContextVar("twin_iot_asked_bytes", default=None)


@patch(
    "services.iot._decode_properties",
    why="a client's Maximum Packet Size is honoured (MQTT 5, 3.1.2.11.4)",
    signature="(buf, offset)",
)
def _decode_properties(decode: Callable[..., Any], buf: bytes, offset: int) -> Any:
    found, end = decode(buf, offset)
    sizes = [int(value) for name, value in found if name == iot.PROP_MAXIMUM_PACKET_SIZE]
    if sizes:
        _asked_bytes.set(sizes[0])
    return found, end


@patch(
    "services.iot._register_client",
    why="a client's Maximum Packet Size is honoured (MQTT 5, 3.1.2.11.4)",
    signature="(account_id, region, client_id, session, superseded_reason=None)",
)
def _register_client(
    register: Callable[..., None],
    account_id: str,
    region: str,
    client_id: str,
    session: Any,
    superseded_reason: str | None = None,
) -> None:
    limit_bytes = _asked_bytes.get()
    _asked_bytes.set(None)
    if limit_bytes:
        session.deliver_to_client = _Limited(session, client_id, limit_bytes)
    register(account_id, region, client_id, session, superseded_reason)


class _Limited:
    """Delivers what the client can take; the rest is dropped, as if it had been delivered."""

    def __init__(self, session: Any, client_id: str, limit_bytes: int) -> None:
        self.__self__ = session
        self._deliver = session.deliver_to_client
        self._client_id = client_id
        self._limit_bytes = limit_bytes

    async def __call__(self, topic: str, payload: bytes, qos: int) -> None:
        properties = self.__self__._publish_properties(iot._delivery_properties.get())
        packet = iot._make_publish(topic, payload, qos=qos, packet_id=1, properties=properties)
        if len(packet) > self._limit_bytes:
            logger.warning(
                "MQTT: a packet of %d bytes on %s is not sent to %s, which takes at most %d",
                len(packet),
                topic,
                self._client_id,
                self._limit_bytes,
            )
            return
        await self._deliver(topic, payload, qos)


@patch(
    "services.iot.broker_subscribe",
    why="a SUBSCRIBE of the same filter replaces the one before (MQTT 5, 3.8.4)",
    signature="async (account_id, region, topic_filter, callback, granted_qos=0, client_id=None, "
    "retain_as_published=False, retain_handling=0)",
)
async def _broker_subscribe(
    subscribe: Callable[..., Awaitable[str]],
    account_id: str,
    region: str,
    topic_filter: str,
    callback: Any,
    *rest: Any,
    **named: Any,
) -> str:
    session: Any = getattr(callback, "__self__", None)
    filters: dict[str, str] = getattr(session, "_sub_filters", {})
    before = [identifier for identifier, stored in filters.items() if stored == topic_filter]
    made = await subscribe(account_id, region, topic_filter, callback, *rest, **named)
    for identifier in before:
        await iot.broker_unsubscribe(identifier)
        filters.pop(identifier, None)
        session._sub_granted_qos.pop(identifier, None)
        session._sub_ids.remove(identifier)
    return made


async def end_revoked() -> None:
    """End the sessions whose certificate is not active any more, or is gone."""
    for session in list(iot._connected_clients.values()):
        identifier = session.certificate_id
        # A provisioning claim's is no certificate of the register.
        if identifier is None or session.provisioning_template is not None:
            continue
        record = iot._certificates.get_scoped(session.account_id, session.region, identifier)
        if record is not None and record["status"] == "ACTIVE":
            continue
        state = record["status"].lower() if record else "gone"
        logger.warning("MQTT: the certificate of %s is %s, its connection is ended", session._client_id, state)
        with contextlib.suppress(Exception):
            await session._close_unauthorized()
        with contextlib.suppress(Exception):
            await session._send({"type": "websocket.close", "code": 1000})


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Look every second."""
    register_periodic("MQTT certificates", end_revoked, interval_s=_LOOK_S)
