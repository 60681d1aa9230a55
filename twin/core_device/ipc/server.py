"""The IPC socket of a core device: its clients, from their token to their end, and their calls.

Written from the behaviour of the AWS SDKs' client (awsiotsdk 1.31, awscrt 0.36) and of nucleus lite 2.6.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .eventstream import (
    CONNECTION_ACCEPTED,
    PRELUDE,
    TERMINATE_STREAM,
    Header,
    Message,
    MessageType,
    ProtocolError,
    decode_message,
    decode_prelude,
    encode_message,
)
from .operations import (
    NAMESPACE,
    OPERATIONS,
    Call,
    Cancel,
    InvalidRequestError,
    IpcError,
    IpcHandler,
    IpcLimits,
    Operation,
)

log = logging.getLogger(__name__)

PROTOCOL_VERSION = "0.1.0"
_JSON_CONTENT = (":content-type", "application/json")


class IpcServer:
    """Serves the Greengrass IPC on a Unix domain socket.

    Args:
        handler: What the components' calls do.
        limits: What clients may ask; the default is that of nucleus lite.
    """

    def __init__(self, handler: IpcHandler, limits: IpcLimits | None = None) -> None:
        self.handler = handler
        self.limits = limits or IpcLimits()
        self._budget = SubscriptionBudget(self.limits.subscriptions)
        self._clients: dict[asyncio.Task[None], Client] = {}
        self._listener: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Listen at a path, which is replaced when it exists; only the device's own user may connect."""
        path.unlink(missing_ok=True)
        self._listener = await asyncio.start_unix_server(self._serve, path)
        path.chmod(0o600)

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._listener:
            self._listener.close()
        tasks = list(self._clients)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def disconnect(self, component: str) -> None:
        """End a component's connections, as when its token is revoked."""
        for client in self._clients.values():
            if client.component == component:
                client.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # nucleus lite, too, refuses the last one of its places
        if len(self._clients) >= self.limits.clients:
            log.warning("IPC: at most %d clients at once, one more was refused", self.limits.clients)
            writer.close()
            return
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine of a server always runs in a task
        self._clients[task] = client = Client(self.handler, self.limits, self._budget, reader, writer)
        # asyncio's streams (before Python 3.12) report a cancelled task as an unhandled exception: `stop` cancels.
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await client.run()
        finally:
            del self._clients[task]


class SubscriptionBudget:
    """How many subscriptions all clients together may still open."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self) -> Cancel:
        """Take one; returns what gives it back.

        Raises:
            IpcError: All are taken.
        """
        if self._taken >= self._limit:
            raise IpcError("ServiceError", f"at most {self._limit} subscriptions at once on this device")
        self._taken += 1
        return self._give_back

    def _give_back(self) -> None:
        self._taken -= 1


class Client:
    """One client.

    Args:
        handler: What the client's calls do.
        limits: What the client may ask.
        budget: Subscriptions that the clients share.
        reader: What the client says.
        writer: What the client is told.
    """

    def __init__(
        self,
        handler: IpcHandler,
        limits: IpcLimits,
        budget: SubscriptionBudget,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.component = ""
        self.handler = handler
        self.limits, self._budget = limits, budget
        self._reader, self._writer = reader, writer
        self._streams: dict[int, Stream] = {}
        self._last_stream_id = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the client until it leaves, breaks the protocol, or is cancelled."""
        try:
            async with asyncio.timeout(self.limits.connect_s):
                accepted = self._accepts(await self._read())
            if not (accepted or self.limits.tells_refusal):
                log.warning("IPC: a client without a valid token is turned away")
                return
            self.send_message(MessageType.CONNECT_ACK, CONNECTION_ACCEPTED if accepted else 0)
            while accepted:
                self._receive(await self._read())
                await self._writer.drain()
                if len(self._tasks) >= self.limits.calls:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            await self._linger()
        except ProtocolError as error:
            log.warning("IPC client %s: %s", self.component or "without a token", error)
            reason = json.dumps({"message": str(error)}).encode()
            self.send_message(MessageType.PROTOCOL_ERROR, headers=(_JSON_CONTENT,), payload=reason)
            await self._linger()
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            for stream in list(self._streams.values()):
                stream.close()
            self._writer.close()

    def send_message(
        self,
        message_type: int,
        flags: int = 0,
        stream_id: int = 0,
        headers: tuple[tuple[str, str | Header], ...] = (),
        payload: bytes = b"",
    ) -> None:
        """Write a message; a client that lets its messages pile up is disconnected."""
        if self._writer.is_closing():
            return
        self._writer.write(encode_message(message_type, flags, stream_id, headers, payload))
        if self._writer.transport.get_write_buffer_size() > self.limits.backlog_bytes:
            log.warning("IPC: %s does not read its messages, its connection is ended", self.component)
            self.abort()

    def take_subscription(self) -> Cancel:
        """Count one more subscription of this device."""
        return self._budget.take()

    def forget_stream(self, stream_id: int) -> None:
        """The stream has ended."""
        self._streams.pop(stream_id, None)

    def abort(self) -> None:
        """End the connection without a word."""
        self._writer.transport.abort()

    async def _read(self) -> Message:
        prelude = await self._reader.readexactly(PRELUDE.size)
        total, headers_length = decode_prelude(prelude, self.limits.message_bytes)
        return decode_message(prelude, headers_length, await self._reader.readexactly(total - PRELUDE.size))

    async def _linger(self) -> None:
        """Let the client close first: a socket that closes on it hides what it was just told."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(self.limits.linger_s):
                while await self._reader.read(1 << 16):
                    pass

    def _accepts(self, message: Message) -> bool:
        if message.type != MessageType.CONNECT or message.stream_id != 0:
            raise ProtocolError("the first message must be CONNECT")
        try:
            token = json.loads(message.payload)["authToken"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        if message.text(":version") == PROTOCOL_VERSION and isinstance(token, str):
            self.component = self.handler.component_of(token) or ""
        return bool(self.component)

    def _receive(self, message: Message) -> None:
        stream = self._streams.get(message.stream_id)
        if message.stream_id == 0 and message.type == MessageType.PING and not self.limits.pings:
            log.warning("IPC: %s sent a ping, which ends its connection on nucleus lite", self.component)
            self.abort()
        elif message.stream_id == 0 and message.type == MessageType.PING:
            echoed = tuple((name, value) for name, value in message.headers.items() if not name.startswith(":"))
            self.send_message(MessageType.PING_RESPONSE, 0, 0, echoed, message.payload)
        elif message.type != (MessageType.APPLICATION_MESSAGE if message.stream_id > 0 else MessageType.PING_RESPONSE):
            raise ProtocolError(f"a message of type {message.type} is not allowed on stream {message.stream_id}")
        elif stream and message.flags & TERMINATE_STREAM:
            stream.close()
        elif stream:
            stream.fail("ServiceError", "the operation takes no further messages")
        elif message.stream_id > self._last_stream_id:  # else it crossed our end of the stream on the way
            self._last_stream_id = message.stream_id
            if not message.flags & TERMINATE_STREAM:
                self._start(message)

    def _start(self, message: Message) -> None:
        stream = self._streams[message.stream_id] = Stream(self, message.stream_id)
        task = asyncio.create_task(stream.serve(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _unsupported(call: Call) -> None:
    raise InvalidRequestError(f"operation {call.operation} is not supported")


_UNSUPPORTED = Operation(_unsupported, None, "ServiceError")


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
            request = _request(message, limits)
            call = Call(self._client.handler, self._client.component, name, request, self._emit, limits)
            if operation.event_type:
                self._on_close.append(self._client.take_subscription())
            result = await operation.perform(call)
            if operation.event_type:
                self._start_events(name, result)
            else:
                ending = TERMINATE_STREAM if limits.ends_answers else 0
                self._send(MessageType.APPLICATION_MESSAGE, name + "Response", result or {}, ending)
                self.close()
        except IpcError as error:
            self.fail(error.code, error.message)
        except InvalidRequestError as error:
            self.fail(operation.invalid_request, str(error))
        except NotImplementedError:
            self.fail("ServiceError", f"operation {name} is not served here")
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
        headers = (_JSON_CONTENT, ("service-model-type", NAMESPACE + model))
        payload = json.dumps(content, separators=(",", ":")).encode()
        self._client.send_message(message_type, flags, self._id, headers, payload)
        if flags & TERMINATE_STREAM:
            self.close()


def _request(message: Message, limits: IpcLimits) -> dict[str, Any]:
    try:
        request = json.loads(message.payload)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise InvalidRequestError("the request is not a JSON object")
    depth, longest = _shape(request)
    if limits.nesting is not None and depth > limits.nesting:
        raise InvalidRequestError(f"JSON must be nested at most {limits.nesting} levels deep on this nucleus")
    if limits.items is not None and longest > limits.items:
        raise InvalidRequestError(f"a list must have at most {limits.items} items on this nucleus, got {longest}")
    return request


def _shape(value: Any) -> tuple[int, int]:
    """Levels of maps and lists, and the length of the longest list; the decoder has bounded both already."""
    depth, longest, level = 0, 0, [value]
    while level:
        depth += 1
        longest = max([longest, *(len(v) for v in level if isinstance(v, list))])
        level = [c for v in level for c in (v.values() if isinstance(v, dict) else v) if isinstance(c, dict | list)]
    return depth, longest
