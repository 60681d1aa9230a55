"""An MQTT client that is not connected yet: its way to the broker, through a proxy too, and its properties."""

from __future__ import annotations

import base64
import binascii
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from twin.core_device.configuration import Configuration
from twin.core_device.errors import RequestRejectedError

_CONNECT_TIMEOUT_S = 10.0
IN_FLIGHT_LIMIT = 100  # IoT Core's quota of unacknowledged messages for a client
_TUNNEL_HEAD_LIMIT_BYTES = 8192
_UTF8_FORMATS = ("1", "UTF8")


class _TunnelledClient(mqtt.Client):
    """Goes through an HTTP proxy; paho's own proxy support would need another package."""

    proxy_url: str | None = None
    address: tuple[str, int] | None = None

    def _create_socket_connection(self) -> socket.socket:
        if self.address:
            connected = socket.create_connection(self.address, timeout=self._connect_timeout)
        elif self.proxy_url:
            connected = open_tunnel(self.proxy_url, self._host, self._port, self._connect_timeout)
        else:
            connected = super()._create_socket_connection()
        # An acknowledgement followed by an answer would wait 40 ms for the peer's delayed ACK (Nagle's algorithm).
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


def make_mqtt_client(
    configuration: Configuration, tls: ssl.SSLContext, address: tuple[str, int] | None = None
) -> mqtt.Client:
    """A client that is not connected yet and leaves reconnecting to its owner; its id is the thing's name.

    Args:
        configuration: Endpoint, identity and proxy.
        tls: Of the device.
        address: Where the endpoint is reached, past name service and proxy; its certificate is checked all the same.
    """
    client = _TunnelledClient(
        CallbackAPIVersion.VERSION2,
        client_id=configuration.system.thing_name,
        protocol=mqtt.MQTTv5,
        reconnect_on_failure=False,
    )
    client.proxy_url, client.address = configuration.nucleus.proxy_url, address
    client.connect_timeout = _CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(IN_FLIGHT_LIMIT)
    client.tls_set_context(tls)
    return client


def open_tunnel(proxy_url: str, host: str, port: int, timeout_s: float) -> socket.socket:
    """Ask a proxy for a tunnel (CONNECT, RFC 9110 section 9.3.6).

    Args:
        proxy_url: `http://host:port`, port 3128 when it has none.
        host: Where the tunnel ends.
        port: Where the tunnel ends.
        timeout_s: Limit of every single wait.

    Returns:
        The connected socket, on which the far end speaks next.

    Raises:
        OSError: The proxy cannot be reached or refuses.
    """
    proxy = urlsplit(proxy_url)
    tunnel = socket.create_connection((proxy.hostname or "", proxy.port or 3128), timeout=timeout_s)
    try:
        target = f"{host}:{port}"
        tunnel.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        head = b""
        # Byte by byte: what follows the head belongs to the far end.
        while not head.endswith(b"\r\n\r\n"):
            byte = tunnel.recv(1)
            if not byte or len(head) >= _TUNNEL_HEAD_LIMIT_BYTES:
                raise ConnectionError(f"the proxy {proxy_url} gave no answer to CONNECT {target}")
            head += byte
        status_line = head.split(b"\r\n", 1)[0].decode(errors="replace")
        if status_line.split(" ")[1:2] != ["200"]:
            raise ConnectionError(f"the proxy {proxy_url} refused CONNECT {target}: {status_line}")
    except BaseException:
        tunnel.close()
        raise
    return tunnel


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
        # A text that no packet can hold would end each connection at which it is sent.
        properties.pack()  # type: ignore[no-untyped-call]
    except (KeyError, TypeError, ValueError, binascii.Error, ArithmeticError, struct.error) as exc:
        raise RequestRejectedError(f"an MQTT property is not valid: {exc!r}") from exc
    except Exception as exc:
        if type(exc).__name__ != "MQTTException":
            raise
        raise RequestRejectedError(f"an MQTT property is not valid: {exc}") from exc
    return bool(request.get("retain")), None if properties.isEmpty() else properties  # type: ignore[no-untyped-call]
