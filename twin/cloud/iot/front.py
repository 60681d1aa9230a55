"""AWS's names and ports: a device reaches them through the CONNECT proxy, and finds the front behind port 443.

The names are AWS's own, in DescribeEndpoint and in the server certificate, so neither a hosts file nor a trust store
has to change. Clients with an endpoint URL of their own (boto3 with AWS_ENDPOINT_URL) do not use them.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ministack.core.responses import get_account_id, get_region
from ministack.services import iot

from twin.cloud.aws.protocol import json_response
from twin.cloud.credentials import credentials
from twin.cloud.doors import device_connections
from twin.cloud.iot.listener import HttpError, Listener, Serve, close, identify, read_head, write_json
from twin.cloud.ministack.patches import patch
from twin.cloud.ministack.registry import register_background
from twin.cloud_process import Settings
from twin.process import CUT_OFF, ports_of


def endpoint_names(account: str, region: str) -> dict[str, str]:
    """Endpoint type → host name, as DescribeEndpoint answers."""
    prefix = iot._endpoint_prefix(account)
    return {
        "iot:Data-ATS": f"{prefix}-ats.iot.{region}.amazonaws.com",
        "iot:CredentialProvider": f"{prefix}.credentials.iot.{region}.amazonaws.com",
    }


_certificate_names: list[str] = []


def certificate_names(region: str) -> list[str]:
    """The DNS names that the server certificate needs besides MiniStack's own."""
    return [
        f"*.iot.{region}.amazonaws.com",
        f"*.credentials.iot.{region}.amazonaws.com",
        f"*.s3.{region}.amazonaws.com",
        "*.s3.amazonaws.com",
        f"*.{region}.amazonaws.com",
    ]


@patch("services.iot._describe_endpoint", why="devices are given AWS's names", signature="(qp)")
def _describe_endpoint(describe: Callable[..., Any], query: dict[str, str]) -> Any:
    name = endpoint_names(get_account_id(), get_region()).get(query.get("endpointType", "iot:Data-ATS"))
    return describe(query) if name is None else json_response(200, {"endpointAddress": name})


@patch("services.iot._mtls_server_cert_sans", why="every TLS listener has AWS's names", signature="()")
def _server_certificate_names(names_by_ministack: Callable[[], tuple[list[str], list[str]]]) -> Any:
    names, addresses = names_by_ministack()
    return list(dict.fromkeys([*names, *_certificate_names])), addresses


@patch(
    "core.x509_utils.sign_leaf_certificate",
    why="the key of the TLS listeners is of an elliptic curve: signing by RSA is most of what a handshake costs",
    signature="(ca_cert_pem, ca_key_pem, common_name, san_dns=None, san_ips=None, days_valid=825, "
    "key_type='rsa2048', subject_rdns=None)",
)
def _sign_leaf_certificate(sign: Callable[..., tuple[str, str, str]], *args: Any, **options: Any) -> Any:
    # Servers have names of their own, devices have none.
    return sign(*args, **{**options, "key_type": "ec256"} if options.get("san_dns") else options)


EARLIER = timedelta(days=30)
"""So much older than they are the twin's certificates say they are: the clock may jump back, here or on a device."""


def _validity(**parts: float) -> timedelta:
    # MiniStack's certificates are valid from a minute before now on; nothing else there is a minute.
    return EARLIER if parts == {"minutes": 1} else timedelta(**parts)


@patch(
    "core.x509_utils._dt",
    why="certificates are valid although the clock is a day behind, as AWS's are, which are months old",
    signature="module",
)
def _backdated(by_ministack: ModuleType) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(by_ministack), "timedelta": _validity})


FRONT_IDLE_LIMIT_S = 60.0


def front(gateway_port: int, data_plane: Callable[..., Awaitable[object]]) -> Serve:
    """The handler of a TLS connection to the front.

    Args:
        gateway_port: Where the twin's gateway serves everything else; one request a connection.
        data_plane: Answers the Greengrass data plane's requests: head, reader, writer.
    """

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if not head.host:
            raise HttpError(400, "Host header must name the AWS host, got none")
        if ".credentials.iot." in head.host:
            await write_json(writer, 200, credentials(identify(writer), head))
            return
        if ".iot." in head.host and head.target.startswith("/greengrass/"):
            # Client devices discover on 443, too (ALPN x-amzn-http-ca).
            await data_plane(head, reader, writer)
            return
        await splice(
            reader,
            writer,
            gateway_port,
            first=head.closing(),
            idle_limit_s=FRONT_IDLE_LIMIT_S,
            known=device_connections,
        )

    return serve


PROXY_IDLE_LIMIT_S = 1800.0
"""One and a half times the longest MQTT keep-alive that AWS IoT takes (1200 s): a client silent for longer is gone."""

_TARGET = re.compile(r"([a-z0-9.-]+)\.amazonaws\.com:(\d{1,5})")


def connect_proxy(ports: dict[int, int]) -> Serve:
    """The handler of a connection to the proxy.

    Args:
        ports: Port that a client asks for → port of the twin; every other one is refused.
    """
    offered = ", ".join(map(str, sorted(ports)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        if head.method != "CONNECT":
            raise HttpError(405, f"method must be CONNECT, got {head.method[:20]}")
        match = _TARGET.fullmatch(head.target.lower())
        port = ports.get(int(match[2])) if match else None
        if port is None:
            raise HttpError(403, f"target must be *.amazonaws.com with port {offered}, got {head.target[:200]}")
        peer = writer.get_extra_info("peername")[1]
        marks = [mark for mark in _cut_off if mark.exists()]
        if marks and bool(await asyncio.to_thread(_is_cut_off, peer, marks)):
            raise HttpError(503, "the network of this device is cut: python -m twin fault DEVICE restore-network")
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        _tunnels[peer] = writer
        try:
            await splice(reader, writer, port, opening=established, idle_limit_s=PROXY_IDLE_LIMIT_S)
        finally:
            del _tunnels[peer]

    return serve


_tunnels: dict[int, asyncio.StreamWriter] = {}
"""Connections to the proxy by the client's port."""

_home: list[Path] = []

_cut_off: list[Path] = []
"""Marks of devices without a network, as they were found last; the proxy is their only way to the cloud."""


def _look_for_cut_off() -> None:
    _cut_off[:] = [mark for home in _home for mark in home.glob(f"*/*/{CUT_OFF}")]


def _is_cut_off(port: int, marks: list[Path]) -> bool:
    return any(port in ports_of(mark.parent) for mark in marks)


async def end_cut_off(send: Callable[[dict[str, Any]], Any]) -> None:
    """Look whose network is cut from here on, end their connections, and answer how many there were."""
    ended = 0
    _look_for_cut_off()
    for mark in list(_cut_off):
        for port in await asyncio.to_thread(ports_of, mark.parent):
            if writer := _tunnels.get(port):
                writer.transport.abort()
                ended += 1
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"ended": ended}).encode()})


_CHUNK_BYTES = 64 * 1024
_CONNECT_LIMIT_S = 5.0


class _Activity:
    """When either direction last moved: a long download has one silent direction."""

    def __init__(self) -> None:
        self.moved()

    def moved(self) -> None:
        self.at = asyncio.get_running_loop().time()

    def silent_s(self) -> float:
        return asyncio.get_running_loop().time() - self.at


async def splice(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    port: int,
    *,
    first: bytes = b"",
    opening: bytes = b"",
    idle_limit_s: float,
    known: set[int] | None = None,
) -> None:
    """Join a client's connection with a new one to a port of 127.0.0.1.

    The server's end of stream ends the connection: everything was said. The client's is passed on where the
    connection can be half-closed, and the answer is waited for.

    Args:
        reader: From the client.
        writer: To the client.
        port: The server's.
        first: Sent to the server before anything of the client.
        opening: Sent to the client once the server is connected.
        idle_limit_s: The connection ends when neither side moves for this long.
        known: Has the local port of the new connection while it is there, so that the server can tell whose it is.

    Raises:
        HttpError: If the server cannot be reached.
    """
    try:
        async with asyncio.timeout(_CONNECT_LIMIT_S):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        raise HttpError(502, f"the twin's port {port} must answer: {error}") from error
    activity = _Activity()
    port_of_it = to_server.get_extra_info("sockname")[1]
    try:
        if known is not None:
            known.add(port_of_it)
        to_server.write(first)
        writer.write(opening)
        upward = asyncio.create_task(_pump(reader, to_server, activity, idle_limit_s))
        downward = asyncio.create_task(_pump(from_server, writer, activity, idle_limit_s))
        try:
            await asyncio.wait((downward,))
        finally:
            for task in (upward, downward):
                task.cancel()
            await asyncio.gather(upward, downward, return_exceptions=True)
    finally:
        await close(to_server)
        if known is not None:
            known.discard(port_of_it)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, activity: _Activity, idle_limit_s: float
) -> None:
    """Copy until the end of the stream, a broken connection or the idle limit."""
    try:
        while True:
            try:
                async with asyncio.timeout(max(0.0, idle_limit_s - activity.silent_s())):
                    data = await reader.read(_CHUNK_BYTES)
            except TimeoutError:
                if activity.silent_s() >= idle_limit_s:
                    break
                continue
            if not data:
                break
            activity.moved()
            writer.write(data)
            async with asyncio.timeout(idle_limit_s):
                await writer.drain()
            activity.moved()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, ssl.SSLError, TimeoutError):
        pass


def install(settings: Settings) -> None:
    """Put the front and the proxy on the cloud's ports."""
    # Here: what its modules patch is to be declared after what others do (see `EXTENSIONS` of the patches).
    from twin.cloud.greengrass.api import serve_request

    _home[:] = [settings.home]
    _look_for_cut_off()
    _certificate_names[:] = certificate_names(settings.region)
    ports = {443: settings.front_port, 8443: settings.data_port, 8883: settings.mqtt_port}
    for listener in (
        Listener("AWS front", settings.front_port, front(settings.gateway_port, serve_request), tls=True),
        Listener("CONNECT proxy", settings.proxy_port, connect_proxy(ports), tls=False),
    ):
        register_background(listener.name, start=listener.start, stop=listener.stop)
