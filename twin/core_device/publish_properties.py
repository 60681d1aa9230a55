"""The MQTT 5 properties that a component may give with a message."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from .errors import RequestRejectedError

_UTF8_FORMATS = ("1", "UTF8")


def publish_properties(request: Mapping[str, Any]) -> tuple[bool, Properties | None]:
    """Turn the fields of a PublishToIoTCore request into MQTT properties.

    Args:
        request: `retain`, `userProperties` (list of `{"key", "value"}`), `messageExpiryIntervalSeconds`,
            `correlationData` (base64), `responseTopic`, `payloadFormat`, `contentType`; absent and null mean none.

    Returns:
        Whether the message is retained, and its properties or None.

    Raises:
        RequestRejectedError: A field has the wrong type or is out of range.
    """
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    try:
        for pair in request.get("userProperties") or ():
            properties.UserProperty = (str(pair["key"]), str(pair["value"]))
        if (expiry := request.get("messageExpiryIntervalSeconds")) is not None:
            properties.MessageExpiryInterval = int(expiry)
        if (correlation := request.get("correlationData")) is not None:
            properties.CorrelationData = base64.b64decode(correlation, validate=True)
        if (response_topic := request.get("responseTopic")) is not None:
            properties.ResponseTopic = str(response_topic)
        if (payload_format := request.get("payloadFormat")) is not None:
            properties.PayloadFormatIndicator = int(str(payload_format).upper() in _UTF8_FORMATS)
        if (content_type := request.get("contentType")) is not None:
            properties.ContentType = str(content_type)
    except (KeyError, TypeError, ValueError, binascii.Error, ArithmeticError) as exc:
        raise RequestRejectedError(f"an MQTT property is not valid: {exc!r}") from exc
    except Exception as exc:
        if type(exc).__name__ != "MQTTException":
            raise
        raise RequestRejectedError(f"an MQTT property is not valid: {exc}") from exc
    return bool(request.get("retain")), None if properties.isEmpty() else properties  # type: ignore[no-untyped-call]
