"""Fleet status messages on their way through the MQTT broker."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.greengrass import deployment_event
from twin.cloud.greengrass.core_device import report

logger = logging.getLogger("twin.greengrass")

_TOPIC = re.compile(r"\$aws/things/([^/]+)/greengrassv2/health/json")


def install() -> None:
    """Read every message that passes MiniStack's broker on a fleet status topic; it is delivered as before."""
    deliver = iot.broker_publish

    async def broker_publish(account_id: str, region: str, topic: str, payload: bytes, *args: Any, **more: Any) -> None:
        if match := _TOPIC.fullmatch(topic):
            with request_scope(account_id, region):
                ingest(match[1], payload)
        await deliver(account_id, region, topic, payload, *args, **more)

    iot.broker_publish = broker_publish


def ingest(thing: str, payload: bytes) -> None:
    """Take one message in; one that cannot be read, or of a thing that does not exist, is logged and dropped."""
    if thing not in iot._things:
        logger.warning("fleet status: thing must exist, got %r: message dropped", thing)
        return
    try:
        message = json.loads(payload)
        before = deployment_event.last_reported(thing, message)
        report(thing, message)
        deployment_event.tell(thing, message, before)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        logger.warning("fleet status of %s must be the JSON of a health message: %r, message dropped", thing, error)
