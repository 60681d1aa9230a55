"""One call on a connection: a request, its response, and for a subscription the events that follow."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Protocol

from .eventstream import TERMINATE_STREAM, Message, MessageType
from .operations import OPERATIONS, Call, Operation
from .service_model import NAMESPACE, Cancel, InvalidRequestError, IpcError, IpcHandler, IpcLimits

log = logging.getLogger(__name__)

JSON_CONTENT = (":content-type", "application/json")


async def _unsupported(call: Call) -> None:
    raise InvalidRequestError(f"operation {call.operation} is not supported")


_UNSUPPORTED = Operation(_unsupported, None, "ServiceError")


class Client(Protocol):
    """What a stream needs of its connection."""

    component: str
    handler: IpcHandler
    limits: IpcLimits

    def send_message(
        self, message_type: int, flags: int, stream_id: int, headers: tuple[tuple[str, str], ...], payload: bytes
    ) -> None:
        """Write a message to the client."""

    def take_subscription(self) -> Cancel:
        """Count one subscription; an `IpcError` when there are too many, else what gives it back."""

    def forget_stream(self, stream_id: int) -> None:
        """The stream has ended."""


class Stream:
    """A call of a client. Events wait until the response is out; once it is closed nothing more is sent."""

    def __init__(self, client: Client, stream_id: int) -> None:
        self._client = client
        self._id = stream_id
        self._open = True
        self._event_type: str | None = None
        self._waiting: list[dict[str, Any]] | None = []
        self._on_close: list[Callable[[], None]] = []

    async def serve(self, message: Message) -> None:
        """Perform the call that the stream's first message asks for."""
        name = (message.text("operation") or "").removeprefix(NAMESPACE)
        operation = OPERATIONS.get(name, _UNSUPPORTED)
        self._event_type = operation.event_type
        try:
            limits = self._client.limits
            request = _request(message, limits.nesting)
            call = Call(self._client.handler, self._client.component, name, request, self._emit, limits.payload_bytes)
            if operation.event_type:
                self._on_close.append(self._client.take_subscription())
            result = await operation.perform(call)
            if operation.event_type:
                self._start_events(name, result)
            else:
                self._send(MessageType.APPLICATION_MESSAGE, name + "Response", result or {}, TERMINATE_STREAM)
        except IpcError as error:
            self.fail(error.code, error.message)
        except InvalidRequestError as error:
            self.fail(operation.invalid_request, str(error))
        except Exception:
            log.exception("IPC operation %s of %s failed", name, self._client.component)
            self.fail("ServiceError", "Internal error")

    def fail(self, code: str, message: str) -> None:
        """Answer with an error of the service model, which ends the stream."""
        # The SDKs read `message`; the component SDK for C and Rust reads `_message` and requires `_errorCode`.
        content = {"message": message, "_message": message, "_errorCode": code}
        self._send(MessageType.APPLICATION_ERROR, code, content, TERMINATE_STREAM)

    def close(self) -> None:
        """End the stream and whatever it subscribed to."""
        self._open = False
        self._client.forget_stream(self._id)
        callbacks, self._on_close = self._on_close, []
        for callback in callbacks:
            callback()

    def _start_events(self, name: str, cancel: Cancel) -> None:
        if not self._open:
            cancel()  # the client left while the subscription was being made
            return
        self._on_close.append(cancel)
        self._send(MessageType.APPLICATION_MESSAGE, name + "Response", {})
        waiting, self._waiting = self._waiting or [], None
        for event in waiting:
            self._emit(event)

    def _emit(self, event: dict[str, Any]) -> None:
        if self._waiting is not None:
            self._waiting.append(event)
        elif self._event_type:
            self._send(MessageType.APPLICATION_MESSAGE, self._event_type, event)

    def _send(self, message_type: int, model: str, content: dict[str, Any], flags: int = 0) -> None:
        if not self._open:
            return
        headers = (JSON_CONTENT, ("service-model-type", NAMESPACE + model))
        payload = json.dumps(content, separators=(",", ":")).encode()
        self._client.send_message(message_type, flags, self._id, headers, payload)
        if flags & TERMINATE_STREAM:
            self.close()


def _request(message: Message, nesting: int | None) -> dict[str, Any]:
    try:
        request = json.loads(message.payload)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InvalidRequestError("the request is not a JSON object")
    if nesting is not None and _depth(request) > nesting:
        raise InvalidRequestError(f"JSON must be nested at most {nesting} levels deep on this nucleus")
    return request


def _depth(value: Any) -> int:
    """Levels of maps and lists; the decoder has bounded them already."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [c for v in level for c in (v.values() if isinstance(v, dict) else v) if isinstance(c, dict | list)]
    return deepest
