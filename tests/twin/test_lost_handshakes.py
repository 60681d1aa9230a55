"""Handshakes of devices: what is sent before somebody takes the connection, and a peer that has gone behind its own."""

import asyncio
import logging
import ssl
from asyncio import selector_events
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ministack.services import iot

from tests.core_device.tls_identity import HOST, make_identity
from twin.cloud.iot import connections
from twin.cloud.iot.listener import Listener
from twin.cloud.ministack.patches import LEDGER


@pytest.fixture
def _patched() -> Iterator[None]:
    take_back = LEDGER.apply(connections.__name__)
    yield
    take_back()


class Lost(asyncio.Transport):
    """Its peer has gone."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


@pytest.mark.usefixtures("_patched")
@pytest.mark.parametrize("error", [None, AttributeError("x", name="x", obj=None)])
def test_it_is_no_error_and_other_errors_stay(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    async def context() -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    async def serve(*_arguments: Any) -> None:
        raise AssertionError("nobody is there")

    monkeypatch.setattr(iot, "_mtls_context", context)
    monkeypatch.setattr(iot, "_mtls_handle_conn", serve)

    async def upgrade(transport: Lost) -> None:
        async def start_tls(*_arguments: Any, **_named: Any) -> None:
            if error is not None:
                monkeypatch.setattr(asyncio.StreamReaderProtocol, "connection_made", raising)

        def raising(*_arguments: Any) -> None:
            assert error is not None
            raise error

        monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", start_tls, raising=False)
        await iot._MtlsAcceptor()._upgrade(transport)

    lost = Lost()
    with caplog.at_level(logging.WARNING):
        if error is None:
            asyncio.run(upgrade(lost))
            assert lost.aborted
        else:
            with pytest.raises(AttributeError):
                asyncio.run(upgrade(lost))

    assert not caplog.records


def reads_though_paused(transport: Any, descriptor: int, *callback: Any) -> None:
    """As a transport of Python 3.11.2 begins to read: it may have been paused before."""
    if not transport._closing:
        transport._loop._add_reader(descriptor, *callback)


@pytest.mark.usefixtures("_patched")
@pytest.mark.parametrize("listening", ["broker", "listener"])
def test_the_first_handshake_waits_for_the_certificate_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listening: str
) -> None:
    """It is made for the first connection, and read anew for the first one behind each new certificate."""
    monkeypatch.setattr(selector_events._SelectorTransport, "_add_reader", reads_though_paused)  # type: ignore[attr-defined]
    server_side = make_identity(tmp_path).server_context()
    server_side.verify_mode = ssl.CERT_NONE
    client_side = ssl.create_default_context(cafile=tmp_path / "ca.pem")

    async def context() -> ssl.SSLContext:
        await asyncio.sleep(0.1)
        return server_side

    async def greet(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    monkeypatch.setattr(iot, "_mtls_context", context)
    monkeypatch.setattr(iot, "_mtls_handle_conn", greet)

    async def scenario() -> bytes:
        if listening == "broker":
            server = await asyncio.get_running_loop().create_server(iot._MtlsAcceptor, "127.0.0.1", 0)
        else:
            listener = Listener("listener", 0, greet, tls=True)
            await listener.start()
            assert listener._server is not None
            server = listener._server
        try:
            async with asyncio.timeout(60):
                reader, _writer = await asyncio.open_connection(
                    *server.sockets[0].getsockname(), ssl=client_side, server_hostname=HOST
                )
                return await reader.read()
        finally:
            server.close()

    assert asyncio.run(scenario()) == b"hello"
