"""Temporary AWS credentials for the device's certificate, for S3 and for the device's components."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from twin.clock import CLOCK, Clock
from twin.core_device.configuration import Configuration
from twin.core_device.errors import CoreDeviceError, RequestRejectedError

from .https import CloudHttp

REFRESH_BEFORE = timedelta(minutes=5)
_PATH = "/2016-11-01/credentialprovider/"
_REQUEST_LIMIT_S = 10.0
_HEAD_LIMIT_BYTES = 8192


@dataclass(frozen=True, repr=False)
class Credentials:
    """Credentials of the role behind the role alias; never shown by `repr`."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expiration: datetime


class TokenExchange:
    """Gets credentials by the role alias and keeps them until five minutes before they expire.

    Args:
        configuration: Endpoint, alias and thing name.
        http: The way to the cloud.
        clock: The device's.
    """

    def __init__(self, configuration: Configuration, http: CloudHttp, clock: Clock = CLOCK) -> None:
        nucleus = configuration.nucleus
        self._url = f"https://{nucleus.credential_endpoint}/role-aliases/{nucleus.role_alias}/credentials"
        self._thing_name = configuration.system.thing_name
        self._http, self._clock = http, clock
        self._credentials: Credentials | None = None
        self._lock = asyncio.Lock()

    async def credentials(self, *, renew: bool = False) -> Credentials:
        """Credentials that are good for some minutes at least.

        Args:
            renew: Ask the cloud even when the cached ones have not expired (S3 has refused them).

        Raises:
            RequestRejectedError: The cloud refuses, cannot be reached, or its answer is not understood.
        """
        async with self._lock:
            cached = self._credentials
            if cached and not renew and cached.expiration - self._now() > REFRESH_BEFORE:
                return cached
            response = await self._http.request(
                "GET", self._url, what="token exchange", headers={"x-amzn-iot-thingname": self._thing_name}
            )
            try:
                answer = response.json()["credentials"]
                self._credentials = Credentials(
                    answer["accessKeyId"],
                    answer["secretAccessKey"],
                    answer["sessionToken"],
                    datetime.fromisoformat(answer["expiration"]),
                )
            except (ValueError, KeyError, TypeError) as exc:
                raise RequestRejectedError(f"token exchange at {self._url} gave no credentials: {exc!r}") from exc
            return self._credentials

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.time(), UTC)


_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def signed_headers(
    url: str, region: str, credentials: Credentials, now: datetime | None = None, *, service: str = "s3"
) -> dict[str, str]:
    """Headers that make a GET of a URL an authenticated request to a service of AWS.

    Args:
        url: `https://host/path?query`, percent-encoded, the query's parameters by name.
        region: The bucket's or service's region.
        credentials: Temporary credentials.
        now: The time of the request; the default is the current one.
        service: Its signing name.
    """
    parts = urlsplit(url)
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "host": parts.netloc,
        "x-amz-content-sha256": _EMPTY_SHA256,
        "x-amz-date": stamp,
        "x-amz-security-token": credentials.session_token,
    }
    names = ";".join(sorted(headers))
    canonical_headers = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = "\n".join(("GET", parts.path or "/", parts.query, canonical_headers, names, _EMPTY_SHA256))
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, digest))
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    authorization = (
        f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return {**headers, "authorization": authorization}


def object_url(bucket: str, key: str, region: str) -> str:
    """The URL of an S3 object: virtual-hosted, but path-style where dots in the bucket's name break TLS wildcards."""
    path = quote(key, safe="/-._~")
    if "." in bucket:
        return f"https://s3.{region}.amazonaws.com/{bucket}/{path}"
    return f"https://{bucket}.s3.{region}.amazonaws.com/{path}"


log = logging.getLogger(__name__)


class CredentialEndpoint:
    """Answers `GET` with the device's temporary credentials, for the tokens of its components only.

    Args:
        token_exchange: Where the credentials come from.
        component_of: The component that holds a token, or None.
        as_lite: Fetch new credentials for each request, and answer `null` where there are none, as nucleus lite does.
    """

    def __init__(
        self, token_exchange: TokenExchange, component_of: Callable[[str], str | None], *, as_lite: bool = False
    ) -> None:
        self._token_exchange, self._component_of = token_exchange, component_of
        self._as_lite = as_lite
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen on a free loopback port, another one at each call and no more on the one before; returns the URL."""
        before = self._server
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD_LIMIT_BYTES)
        if before:
            before.close()
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

    async def _answer(self, head: list[str]) -> tuple[HTTPStatus, dict[str, str] | None]:
        method, _, target = head[0].partition(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        component = self._component_of(headers.get("authorization", ""))
        if component is None:
            return HTTPStatus.FORBIDDEN, {"message": "the authorization token is not that of a component"}
        if method != "GET" or target.split(" ")[0].rstrip("/") != _PATH.rstrip("/"):
            return HTTPStatus.NOT_FOUND, {"message": f"only GET {_PATH} is served"}
        try:
            credentials = await self._token_exchange.credentials(renew=self._as_lite)
        except CoreDeviceError as exc:
            log.warning("no credentials for %s: %s", component, exc)
            if self._as_lite:
                return HTTPStatus.OK, None
            return HTTPStatus.INTERNAL_SERVER_ERROR, {"message": str(exc)}
        return HTTPStatus.OK, {
            "AccessKeyId": credentials.access_key_id,
            "SecretAccessKey": credentials.secret_access_key,
            "Token": credentials.session_token,
            "Expiration": credentials.expiration.isoformat().replace("+00:00", "Z"),
        }
