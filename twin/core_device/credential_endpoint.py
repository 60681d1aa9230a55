"""Credentials for components: the loopback endpoint that the AWS SDKs ask by AWS_CONTAINER_CREDENTIALS_FULL_URI."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from http import HTTPStatus

from .errors import CoreDeviceError
from .token_exchange import TokenExchange

log = logging.getLogger(__name__)

_PATH = "/2016-11-01/credentialprovider/"
_REQUEST_LIMIT_S = 10.0
_HEAD_LIMIT_BYTES = 8192


class CredentialEndpoint:
    """Answers `GET` with the device's temporary credentials, for the tokens of its components only.

    Args:
        token_exchange: Where the credentials come from.
        component_of: The component that holds a token, or None.
    """

    def __init__(self, token_exchange: TokenExchange, component_of: Callable[[str], str | None]) -> None:
        self._token_exchange, self._component_of = token_exchange, component_of
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen on a free loopback port; returns the URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_LIMIT_BYTES)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{_PATH}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._server:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_LIMIT_S):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status, body = await self._answer(head)
            content = json.dumps(body).encode()
            lines = (
                f"HTTP/1.1 {status.value} {status.phrase}",
                "Content-Type: application/json",
                f"Content-Length: {len(content)}",
                "Connection: close",
            )
            writer.write("\r\n".join((*lines, "", "")).encode() + content)
            async with asyncio.timeout(_REQUEST_LIMIT_S):
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, TimeoutError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, head: list[str]) -> tuple[HTTPStatus, dict[str, str]]:
        method, _, target = head[0].partition(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        component = self._component_of(headers.get("authorization", ""))
        if component is None:
            return HTTPStatus.FORBIDDEN, {"message": "the authorization token is not that of a component"}
        if method != "GET" or target.split(" ")[0].rstrip("/") != _PATH.rstrip("/"):
            return HTTPStatus.NOT_FOUND, {"message": f"only GET {_PATH} is served"}
        try:
            credentials = await self._token_exchange.credentials()
        except CoreDeviceError as exc:
            log.warning("no credentials for %s: %s", component, exc)
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": str(exc)}
        return HTTPStatus.OK, {
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "Token": credentials.session_token,
            "Expiration": credentials.expiration.isoformat().replace("+00:00", "Z"),
        }
