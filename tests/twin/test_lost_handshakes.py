"""A device whose connection is lost in the moment in which its TLS handshake is done."""

import asyncio
import logging
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from ministack.services import iot

from twin.cloud.iot import connections
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
