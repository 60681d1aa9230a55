"""The way to AWS IoT: a signed WebSocket with MQTT in it, to a broker on this machine."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

import boto3
import pytest
from awscrt.http import HttpProxyOptions
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

from config.loader import load_stage
from config.names import Names
from tests.core_device.small_broker import SmallBroker
from tests.core_device.tls_identity import HOST, make_identity
from tools.predict import connected
from twin import TwinError, predict

NAMES = Names("dev")
SECRET, TOKEN, REGION = "s3cr3t", "t0ken/+=", "us-east-1"


class BrokerBehindWebSockets:
    """A broker that is reached as AWS IoT is, by HTTP upgrade over TLS; a proxy leads to this machine."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.targets = SmallBroker(), list[str]()
        self.ca = make_identity(folder).folder / "ca.pem"
        self._context = make_identity(folder).server_context()
        self._context.verify_mode = 0  # type: ignore[assignment]

    @contextmanager
    def running(self) -> Iterator[int]:
        """Serve in a thread; gives the proxy's port."""
        started: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

        async def serve() -> None:
            ended = asyncio.Event()
            server = await asyncio.start_server(self._upgrade, "127.0.0.1", 0, ssl=self._context)
            self._port = server.sockets[0].getsockname()[1]
            proxy = await asyncio.start_server(self._tunnel, "127.0.0.1", 0)
            started.set_result((proxy.sockets[0].getsockname()[1], asyncio.get_running_loop(), ended))
            await ended.wait()
            server.close()
            proxy.close()

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        port, loop, ended = started.result(30)
        try:
            yield port
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join(30)

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(f"CONNECT {HOST}:443 ".encode())
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        far = await asyncio.open_connection("127.0.0.1", self._port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while chunk := await source.read(65536):
                    sink.write(chunk)
            sink.close()

        await asyncio.gather(pump(reader, far[1]), pump(far[0], writer))

    async def _upgrade(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket, inner = WSConnection(ConnectionType.SERVER), asyncio.StreamReader()

        class Outer:
            """What the broker writes to."""

            transport = writer.transport

            def get_extra_info(self, _: str) -> None:
                return None

            def write(self, data: bytes) -> None:
                writer.write(socket.send(BytesMessage(bytes(data))))

            def close(self) -> None:
                writer.close()

        served = asyncio.create_task(self.broker.serve(inner, Outer()))  # type: ignore[arg-type]
        with suppress(ConnectionError):
            while chunk := await reader.read(65536):
                socket.receive_data(chunk)
                for event in socket.events():
                    if isinstance(event, Request):
                        self.targets.append(event.target)
                        writer.write(socket.send(AcceptConnection(subprotocol="mqtt")))
                    elif isinstance(event, BytesMessage):
                        inner.feed_data(bytes(event.data))
        inner.feed_eof()
        await served


def signature_of(target: str) -> str:
    """What the signature of an upgrade must be: the session token is not part of what is signed."""
    query = dict(parse_qsl(urlsplit(target).query))
    signed = {name: value for name, value in query.items() if name not in ("X-Amz-Signature", "X-Amz-Security-Token")}
    canonical = "&".join(f"{quote(name, safe='')}={quote(signed[name], safe='')}" for name in sorted(signed))
    request = "\n".join(
        (
            "GET",
            "/mqtt",
            canonical,
            "connection:Upgrade",
            f"host:{HOST}",
            "",
            "connection;host",
            hashlib.sha256().hexdigest(),
        )
    )
    day = query["X-Amz-Date"][:8]
    scope = f"{day}/{REGION}/iotdevicegateway/aws4_request"
    assert query["X-Amz-Credential"] == f"AKID/{scope}"
    text = "\n".join(("AWS4-HMAC-SHA256", query["X-Amz-Date"], scope, hashlib.sha256(request.encode()).hexdigest()))
    key = f"AWS4{SECRET}".encode()
    for part in (day, REGION, "iotdevicegateway", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key.hex()


def test_asks_through_a_websocket_that_the_shells_credentials_sign(tmp_path: Path) -> None:
    cloud = BrokerBehindWebSockets(tmp_path)

    def device(topic: str, request: dict[str, Any]) -> None:
        if topic == NAMES.request_topic("digits"):
            reply = {"request_id": request["request_id"], "label": str(request["index"])}
            cloud.broker.send(NAMES.response_topic("digits"), json.dumps(reply).encode())

    cloud.broker.responder = device
    session = boto3.Session("AKID", SECRET, TOKEN, REGION)
    question = predict.question(load_stage("dev"), "digits", 7, None, None, None)
    with cloud.running() as port:
        settings = {"endpoint": HOST, "ca_filepath": str(cloud.ca)}
        with connected(session, REGION, **settings, http_proxy_options=HttpProxyOptions("127.0.0.1", port)) as link:
            answer = predict.ask(link, NAMES, question, 30)

    assert answer["label"] == "7"
    (target,) = cloud.targets
    query = dict(parse_qsl(urlsplit(target).query))
    assert query["X-Amz-Signature"] == signature_of(target)
    assert query["X-Amz-Security-Token"] == TOKEN


def test_what_cannot_be_reached_is_named(tmp_path: Path) -> None:
    session = boto3.Session("AKID", SECRET, TOKEN, REGION)
    cloud = BrokerBehindWebSockets(tmp_path)
    with cloud.running() as port:
        pass  # nobody listens there any more

    text = f"AWS IoT at {HOST} must be reached, got .*: check iot:Connect, the proxy and the clock"
    proxy = HttpProxyOptions("127.0.0.1", port)
    with pytest.raises(TwinError, match=text), connected(session, REGION, endpoint=HOST, http_proxy_options=proxy):
        pass
