"""TCP listeners for devices: bounded in number and time, TLS with the broker's own context; who is at the other end.

One context serves the broker and every listener here, because MiniStack counts the trust anchors it has loaded for
one context only: a second one would not know certificates that are registered later.

And the HTTP/1.1 messages on the device's side: read within limits, answered and closed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import h11
from ministack import app
from ministack.core import iam_evaluator
from ministack.core.responses import request_scope
from ministack.services import iot

from twin.cloud.iot.registry import THING
from twin.ports import abort, stay_paused

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 1 << 20
READ_LIMIT_S = 20.0
"""A head, and a body, arrives within this time or the connection is given up."""

Document = dict[str, Any]


class HttpError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status, 4xx or 5xx.
        message: What the rule is and what came instead.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class RequestHead:
    """The first part of a request.

    Args:
        method: As sent.
        target: Path with query, or `host:port` of a CONNECT.
        version: `1.1` or `1.0`.
        fields: Header names and values as they came.
        headers: Header names in lower case → value; the last one of a repeated header.
        connection: Knows where the body ends.
    """

    method: str
    target: str
    version: str
    fields: tuple[tuple[bytes, bytes], ...]
    headers: dict[str, str]
    connection: h11.Connection

    @property
    def host(self) -> str:
        """The name in the Host header, without a port, in lower case."""
        return self.headers.get("host", "").partition(":")[0].lower()

    @property
    def is_last(self) -> bool:
        """Whether the client sends no other request on the connection."""
        return self.version != "1.1" or "close" in self.headers.get("connection", "").lower()

    def closing(self) -> bytes:
        """The same head, asking the server to close the connection after its answer."""
        kept = [b"%s: %s" % field for field in self.fields if field[0].lower() not in _HOP_BY_HOP]
        start = f"{self.method} {self.target} HTTP/{self.version}".encode("latin-1")
        return b"\r\n".join([start, *kept, b"Connection: close", b"", b""])


_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection"))
_CHUNK_BYTES = 64 * 1024


async def read_head(reader: asyncio.StreamReader) -> RequestHead:
    """Read a request up to the empty line.

    Args:
        reader: Made with a limit of `HEAD_LIMIT_BYTES`.

    Raises:
        HttpError: If it is too large, too slow or no HTTP/1.x.
        asyncio.IncompleteReadError: If the peer goes before it is complete.
    """
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            raw = await reader.readuntil(b"\r\n\r\n")
    except TimeoutError as error:
        raise HttpError(408, f"request head must arrive within {READ_LIMIT_S:g} s") from error
    except asyncio.LimitOverrunError as error:
        raise HttpError(431, f"request head must be at most {HEAD_LIMIT_BYTES} bytes") from error
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
    try:
        connection.receive_data(raw)
        request = cast(h11.Request, connection.next_event())  # the head is complete
    except h11.RemoteProtocolError as error:
        start = raw.partition(b"\r\n")[0][:80]
        raise HttpError(400, f"request must be HTTP/1.1, got {start!r}: {error}") from error
    return RequestHead(
        request.method.decode("latin-1"),
        request.target.decode("latin-1"),
        request.http_version.decode("latin-1"),
        tuple(request.headers.raw_items()),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers},
        connection,
    )


async def read_body(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read the body that the head announces, by its length or in chunks; nothing without one.

    Raises:
        HttpError: If it is too large, too slow or not framed as announced.
        asyncio.IncompleteReadError: If the peer goes before it is complete.
    """
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            return await _body(head, reader, writer)
    except TimeoutError as error:
        raise HttpError(408, f"body must arrive within {READ_LIMIT_S:g} s") from error
    except h11.RemoteProtocolError as error:
        raise HttpError(400, f"body must be framed as its head says: {error}") from error


async def _body(head: RequestHead, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    announced = int(head.headers.get("content-length", "0"))
    if announced > BODY_LIMIT_BYTES:
        raise HttpError(413, f"body must be at most {BODY_LIMIT_BYTES} bytes, got {announced}")
    if head.connection.they_are_waiting_for_100_continue:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = bytearray()
    while not isinstance(event := head.connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_LIMIT_BYTES:
                raise HttpError(413, f"body must be at most {BODY_LIMIT_BYTES} bytes, got more")
        elif data := await reader.read(_CHUNK_BYTES):
            head.connection.receive_data(data)
        else:
            raise asyncio.IncompleteReadError(bytes(body), announced or None)
    return bytes(body)


async def write_json(
    writer: asyncio.StreamWriter, status: int, document: Document, error_type: str = "", *, stays: bool = False
) -> None:
    """Answer with JSON.

    Args:
        writer: Of the connection.
        status: HTTP status.
        document: The body.
        error_type: Value of `x-amzn-ErrorType`, for errors of AWS's services.
        stays: Whether another request may follow; else the end of the connection is announced.
    """
    body = json.dumps(document).encode()
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        f"x-amzn-RequestId: {uuid.uuid4()}",
        *([f"x-amzn-ErrorType: {error_type}"] if error_type else []),
        *([] if stays else ["Connection: close"]),
    ]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    async with asyncio.timeout(READ_LIMIT_S):
        await writer.drain()


logger = logging.getLogger("twin.iot")

HANDSHAKE_LIMIT_S = 10.0
CLOSE_LIMIT_S = 2.0
CONNECTION_LIMIT = 512
_BACKLOG = 1024

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listener:
    """Accepts connections on a port of 127.0.0.1 and serves each in a task of its own.

    Args:
        name: Shown in the log.
        port: To listen on.
        serve: Handles one connection; `HttpError` becomes its answer, and the connection is closed when it returns.
        tls: Whether connections start with a TLS handshake, a client certificate being optional.
        connection_limit: More connections than this are dropped at once.
    """

    def __init__(
        self, name: str, port: int, serve: Serve, *, tls: bool, connection_limit: int = CONNECTION_LIMIT
    ) -> None:
        self.name, self.port = name, port
        self._serve, self._tls, self._connection_limit = serve, tls, connection_limit
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._refused = 0

    async def start(self) -> None:
        """Bind the port.

        Raises:
            OSError: If it is not free; the text names listener and port.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Acceptor(self), "127.0.0.1", self.port, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(
                error.errno, f"{self.name} must have a free port, got {self.port} ({error.strerror}): choose another"
            ) from error
        logger.info("%s listens on 127.0.0.1:%d", self.name, self.port)

    async def stop(self) -> None:
        """Stop accepting and end every connection; waits for none of the peers."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=CLOSE_LIMIT_S)

    def accept(self, transport: asyncio.Transport) -> None:
        """Take over a connection whose reading is paused."""
        if len(self._connections) >= self._connection_limit:
            self._refused += 1
            # A flood must not fill the log: the 1st, 2nd, 4th, 8th … refusal is told.
            if self._refused & (self._refused - 1) == 0:
                limit = self._connection_limit
                logger.warning("%s: at most %d connections, %d refused so far", self.name, limit, self._refused)
            transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._run(transport))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _run(self, transport: asyncio.Transport) -> None:
        stay_paused(transport)
        peer = transport.get_extra_info("peername")
        try:
            streams = await self._streams(transport)
        except (OSError, ssl.SSLError, TimeoutError) as error:
            # A peer that only looks whether the port is open says nothing at all.
            level = logging.DEBUG if isinstance(error, ConnectionError) else logging.WARNING
            logger.log(level, "%s: TLS handshake with %s failed: %r", self.name, peer, error)
            transport.abort()
            return
        except BaseException:
            transport.abort()
            raise
        if streams is None:
            return
        reader, writer = streams
        try:
            await self._handle(reader, writer)
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError, TimeoutError) as error:
            logger.debug("%s: connection of %s ended: %r", self.name, peer, error)
        finally:
            await close(writer)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except HttpError as error:
            peer = writer.get_extra_info("peername")
            logger.warning("%s: request of %s refused with %d: %s", self.name, peer, error.status, error)
            await write_json(writer, error.status, {"message": str(error)})
        except (asyncio.IncompleteReadError, OSError, ssl.SSLError, TimeoutError):
            raise
        except Exception:
            logger.exception("%s: request failed", self.name)
            await write_json(writer, 500, {"message": "internal error of the twin: its log has the details"})

    async def _streams(self, transport: asyncio.Transport) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=HEAD_LIMIT_BYTES, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        ready: asyncio.BaseTransport | None = transport
        if self._tls:
            context = await iot._mtls_context()
            if context is None or transport.is_closing():
                transport.abort()
                return None
            ready = await loop.start_tls(
                transport,
                protocol,
                context,
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_LIMIT_S,
                ssl_shutdown_timeout=CLOSE_LIMIT_S,
            )
        else:
            transport.set_protocol(protocol)
        if not isinstance(ready, asyncio.Transport):
            return None
        # Neither start_tls nor set_protocol tells the new protocol of its transport.
        protocol.connection_made(ready)
        if not self._tls:
            transport.resume_reading()
        return reader, asyncio.StreamWriter(ready, protocol, reader, loop)


class _Acceptor(asyncio.Protocol):
    """Keeps what the peer sends in the kernel's buffer until the listener has taken the connection over."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.Transport):
            transport.pause_reading()
            self._listener.accept(transport)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection properly, and abort it if the peer does not take part in time."""
    try:
        async with asyncio.timeout(CLOSE_LIMIT_S):
            writer.close()
            await writer.wait_closed()
    except (OSError, ssl.SSLError, TimeoutError):
        pass
    finally:
        abort(writer.transport)


@dataclass(frozen=True)
class DeviceIdentity:
    """An active device certificate of one account and region.

    Args:
        account: Account that registered it.
        region: Region that registered it.
        certificate_id: SHA-256 of the certificate in hex, as IoT names it.
    """

    account: str
    region: str
    certificate_id: str

    def things(self) -> list[str]:
        """Names of the things that the certificate is attached to."""
        with request_scope(self.account, self.region):
            record = iot._certificates.get(self.certificate_id) or {}
            return [iot._thing_name_from_arn(arn) for arn in record.get("attachedThings", [])]

    def allows(self, action: str, resource_arn: str) -> bool:
        """Whether the certificate's IoT policies allow an action; always, where the twin runs without AUTH=true.

        A thing's policy variables are filled for MQTT only, as on AWS.

        Args:
            action: For instance `greengrass:ResolveComponentCandidates`.
            resource_arn: What it is done to.
        """
        if not app.AUTH:
            return True
        context = iot._mqtt_policy_context(self.account, self.region, self.certificate_id, "")
        variables = {name: value for name, value in context.items() if not name.startswith(f"{THING}.")}
        with request_scope(self.account, self.region):
            record = iot._certificates.get(self.certificate_id) or {}
            policies = [iot._policies.get(name) for name in record.get("attachedPolicies", [])]
        documents = [policy["versions"][policy["defaultVersionId"]]["document"] for policy in policies if policy]
        context = iam_evaluator.EvalContext(
            principal_arn=f"arn:aws:iot:{self.region}:{self.account}:cert/{self.certificate_id}",
            principal_type="Certificate",
            principal_account=self.account,
            action=action,
            resource_arn=resource_arn,
            region=self.region,
            service_context=variables,
        )
        values = tuple(sorted(variables.items()))
        parsed = [iot._parsed_iot_policy(text, values) for text in documents]
        return bool(iam_evaluator.evaluate(context, parsed).decision == "Allow")


def identify(writer: asyncio.StreamWriter) -> DeviceIdentity | None:
    """The device at the other end of a TLS connection; None without a certificate, or with one that is not active."""
    ssl_object = writer.get_extra_info("ssl_object")
    certificate = ssl_object.getpeercert(binary_form=True) if ssl_object is not None else None
    if not certificate:
        return None
    owner = iot._mtls_resolve_identity(certificate)
    if owner is None or owner[2] is not None:  # a provisioning claim is no device yet
        return None
    return DeviceIdentity(owner[0], owner[1], hashlib.sha256(certificate).hexdigest())
