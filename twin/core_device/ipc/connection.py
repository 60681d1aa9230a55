"""One client of the IPC socket, from its token to its end.

Written from the behaviour of the AWS SDKs' client (awsiotsdk 1.31, awscrt 0.36) and of nucleus lite 2.6.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

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
from .service_model import Cancel, IpcError, IpcHandler, IpcLimits
from .stream import JSON_CONTENT, Stream

log = logging.getLogger(__name__)

PROTOCOL_VERSION = "0.1.0"


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


class Connection:
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
            self.send_message(MessageType.PROTOCOL_ERROR, headers=(JSON_CONTENT,), payload=reason)
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
        if message.stream_id == 0 and message.type == MessageType.PING:
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
