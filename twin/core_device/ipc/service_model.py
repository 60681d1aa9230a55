"""What the Greengrass IPC service model says: operations, their events and errors, and what serves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

NAMESPACE = "aws.greengrass#"


class IpcError(Exception):
    """An error of the service model, sent to the client.

    Args:
        code: The error's name in the model, such as `ResourceNotFoundError`.
        message: What the client reads.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class InvalidRequestError(Exception):
    """A request that the service model does not allow; each operation has its own name for it."""


@dataclass(frozen=True)
class Json:
    """A local message that is a JSON value; a binary one is plain `bytes`."""

    value: Any


Cancel = Callable[[], None]
Message = Json | bytes


class IpcHandler(Protocol):
    """What stands behind the socket. Its methods run on the server's event loop and fail with an `IpcError`."""

    def component_of(self, token: str) -> str | None:
        """The component that holds the token, or None."""

    def access_control(self, component: str) -> Any:
        """The component's `accessControl` configuration; anything but a map allows nothing."""

    def get_configuration(self, component: str, key_path: list[str]) -> Any:
        """The value at a key path."""

    def update_configuration(self, component: str, key_path: list[str], value: Any, timestamp_ms: int) -> None:
        """Merge a value into the component's own configuration."""

    def subscribe_to_configuration_update(
        self, component: str, key_path: list[str], deliver: Callable[[str, list[str]], None]
    ) -> Cancel:
        """Call `deliver(component, key path)` for each changed leaf at or below the key path."""

    async def publish_to_iot_core(self, topic: str, payload: bytes, qos: int, properties: Mapping[str, Any]) -> None:
        """Publish by the device's MQTT connection."""

    async def subscribe_to_iot_core(self, topic: str, qos: int, deliver: Callable[[str, bytes], None]) -> Cancel:
        """Call `deliver(topic, payload)` for each message from the cloud."""

    def publish_to_topic(self, component: str, topic: str, message: Message) -> None:
        """Publish to the device's own components."""

    def subscribe_to_topic(
        self, component: str, topic: str, others_only: bool, deliver: Callable[[str, Message], None]
    ) -> Cancel:
        """Call `deliver(topic, message)` for each local message."""

    def update_state(self, component: str, state: str) -> None:
        """Take a component's own word for its state: RUNNING or ERRORED."""


@dataclass(frozen=True)
class IpcLimits:
    """What a client may ask of the server; the defaults are those of nucleus lite 2.6.0 where it has one.

    Args:
        message_bytes: Longest message of a client; a longer one ends its connection.
        clients: Connections at once; one more is closed at once.
        subscriptions: Open subscriptions of all clients together; one more is refused.
        payload_bytes: Longest payload for the cloud.
        nesting: How deep the JSON of a request may be nested; None for no limit of its own.
        calls: Calls of one connection under way at once; further ones wait in the socket.
        backlog_bytes: Unread bytes that a client may let pile up before it is disconnected.
        connect_s: Seconds a new connection has to present its token.
        linger_s: Seconds a refused client has to read the reason.
    """

    message_bytes: int = 10_012
    clients: int = 50
    subscriptions: int = 100
    payload_bytes: int = 6_300
    nesting: int | None = 14
    calls: int = 64
    backlog_bytes: int = 8 << 20
    connect_s: float = 10.0
    linger_s: float = 2.0
