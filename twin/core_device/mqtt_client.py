"""paho's MQTT 5 client as the device needs it: the device's TLS identity, and through a proxy when there is one."""

from __future__ import annotations

import socket

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from .cloud_http import tls_context
from .configuration import Configuration
from .proxy_tunnel import open_tunnel

KEEP_ALIVE_S = 30
_CONNECT_TIMEOUT_S = 10.0
_IN_FLIGHT_LIMIT = 100  # IoT Core's quota of unacknowledged messages for a client


class _TunnelledClient(mqtt.Client):
    """Goes through an HTTP proxy; paho's own proxy support would need another package."""

    proxy_url: str | None = None

    def _create_socket_connection(self) -> socket.socket:
        if self.proxy_url:
            connected = open_tunnel(self.proxy_url, self._host, self._port, self._connect_timeout)
        else:
            connected = super()._create_socket_connection()
        # An acknowledgement followed by an answer would wait 40 ms for the peer's delayed ACK (Nagle's algorithm).
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


def make_mqtt_client(configuration: Configuration) -> mqtt.Client:
    """A client that is not connected yet and leaves reconnecting to its owner; its id is the thing's name."""
    client = _TunnelledClient(
        CallbackAPIVersion.VERSION2,
        client_id=configuration.system.thing_name,
        protocol=mqtt.MQTTv5,
        reconnect_on_failure=False,
    )
    client.proxy_url = configuration.nucleus.proxy_url
    client.connect_timeout = _CONNECT_TIMEOUT_S
    client.max_inflight_messages_set(_IN_FLIGHT_LIMIT)
    client.tls_set_context(tls_context(configuration, identified=True))
    return client
