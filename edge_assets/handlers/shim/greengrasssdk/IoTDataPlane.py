"""The client of `greengrasssdk.client("iot-data")`."""

from typing import Any

from v1_handler import channel

from .Lambda import InvocationException


class ShadowError(Exception):
    """A shadow that cannot be had."""


class Client:
    """Publishes through the handler's component."""

    def publish(self, **kwargs: Any) -> None:
        """Publish a message.

        Args:
            kwargs: `topic`, required; `payload`: bytes, a text or a file-like object, empty by default;
                `queueFullPolicy`: `AllOrException` raises when the queue is full, `BestEffort` and the default drop.

        Raises:
            ValueError: topic is missing or no text, or the policy is unknown.
            TypeError: The payload is of another type.
            InvocationException: The message was not taken.
        """
        topic = _required("topic", kwargs)
        if not isinstance(topic, str):
            raise ValueError(f'Parameter "topic" must be a text, got {type(topic).__name__}.')
        payload = kwargs.get("payload", b"")
        policy = kwargs.get("queueFullPolicy", "")
        if policy not in ("AllOrException", "BestEffort", ""):
            raise ValueError(f"Invalid value for queueFullPolicy: {policy}")
        try:
            channel.publish(topic, _bytes(payload), policy)
        except channel.NotPublishedError as exc:
            raise InvocationException(f"Failed to invoke function due to {exc}") from exc

    def get_thing_shadow(self, **kwargs: Any) -> Any:
        """Refuse; see `_no_shadow`."""
        return _no_shadow("get", kwargs)

    def update_thing_shadow(self, **kwargs: Any) -> Any:
        """Refuse; see `_no_shadow`."""
        _required("thingName", kwargs)
        _required("payload", kwargs)
        return _no_shadow("update", kwargs)

    def delete_thing_shadow(self, **kwargs: Any) -> Any:
        """Refuse; see `_no_shadow`."""
        return _no_shadow("delete", kwargs)


def _no_shadow(operation: str, kwargs: dict[str, Any]) -> Any:
    """Shadows are not served by the leanest nucleus, so no handler may count on them."""
    thing = _required("thingName", kwargs)
    raise ShadowError(
        f"{operation}_thing_shadow(thingName={thing!r}): Greengrass V2 serves no shadows to handler components; "
        f"publish to $aws/things/{thing}/shadow/{operation} and subscribe to its answers below that topic: declare "
        "both in the stage (docs/migration.md)"
    )


def _required(name: str, kwargs: dict[str, Any]) -> Any:
    if name not in kwargs:
        raise ValueError(f'Parameter "{name}" is a required parameter but was not provided.')
    return kwargs[name]


def _bytes(payload: Any) -> bytes:
    content = payload.read() if hasattr(payload, "read") else payload
    if isinstance(content, str):
        return content.encode()
    if isinstance(content, bytes | bytearray | memoryview):
        return bytes(content)
    raise TypeError(
        f"payload must be bytes, a text or a file, got {type(content).__name__}: encode it, for instance by json.dumps"
    )
