"""Temporary AWS credentials in exchange for the device's certificate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from .cloud_http import CloudHttp
from .configuration import Configuration
from .errors import RequestRejectedError

REFRESH_BEFORE = timedelta(minutes=5)


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
    """

    def __init__(self, configuration: Configuration, http: CloudHttp) -> None:
        nucleus = configuration.nucleus
        self._url = f"https://{nucleus.credential_endpoint}/role-aliases/{nucleus.role_alias}/credentials"
        self._thing_name = configuration.system.thing_name
        self._http = http
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
            if cached and not renew and cached.expiration - datetime.now(UTC) > REFRESH_BEFORE:
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
