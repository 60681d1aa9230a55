"""Which certificate is which client device's, as the cloud says it; what it said is kept for when the line is cut."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from twin.clock import CLOCK
from twin.core_device.cloud.credentials import TokenExchange, signed_headers
from twin.core_device.cloud.https import CloudHttp
from twin.core_device.configuration import Configuration
from twin.core_device.errors import RequestRejectedError
from twin.core_device.files import Documents

log = logging.getLogger(__name__)

KEPT = 2500
"""Devices whose identity is kept; the one that was verified longest ago goes (`maxActiveAuthTokens` by default)."""

QUEUE = 100
"""Clients that wait for the cloud at once; one more is turned away (`cloudRequestQueueSize` by default)."""

_TIMEOUT_S = 5.0


class UnreachableError(Exception):
    """The cloud gives no answer, or none about the question: it is not reached, is busy, or the device may not ask."""


class DeviceCloud:
    """The Greengrass calls of a core device that are about its client devices.

    The paths for certificate authorities and for what is verified are not documented: these are the twin's.

    Args:
        configuration: Endpoints and thing name.
        http: The way to the cloud.
        token_exchange: Credentials for the one call that is signed by the device's role.
    """

    def __init__(self, configuration: Configuration, http: CloudHttp, token_exchange: TokenExchange) -> None:
        nucleus, self._thing = configuration.nucleus, configuration.system.thing_name
        self._base = f"https://{nucleus.data_endpoint}:{nucleus.data_plane_port}/greengrass"
        self._control, self._region = f"https://greengrass.{nucleus.region}.amazonaws.com", nucleus.region
        self._http, self._token_exchange = http, token_exchange

    async def put_authorities(self, certificates: Sequence[str]) -> None:
        """Tell which authorities client devices are to trust (PutCertificateAuthorities)."""
        body = {"coreDeviceCertificates": list(certificates)}
        await self._ask("PUT", f"{self._base}/v2/certificateAuthorities", body)

    async def verify(self, certificate_pem: str, certificate_id: str, thing: str) -> str:
        """Why a certificate is not a client device's of this core; empty if it is.

        VerifyClientDeviceIdentity, then VerifyClientDeviceIoTCertificateAssociation.
        """
        try:
            body = {"clientDeviceCertificate": certificate_pem}
            await self._ask("POST", f"{self._base}/v2/verifyClientDeviceIdentity", body)
            pair = {"clientDeviceThingName": thing, "clientDeviceCertificateId": certificate_id}
            await self._ask("POST", f"{self._base}/v2/verifyClientDeviceIoTCertificateAssociation", pair)
        except RequestRejectedError as exc:
            return str(exc)
        return ""

    async def associated(self) -> set[str]:
        """Things of this core's client devices (ListClientDevicesAssociatedWithCoreDevice, by the device's role)."""
        found: set[str] = set()
        token = ""
        while True:
            query = "maxResults=100" + (f"&nextToken={quote(token, safe='')}" if token else "")
            url = f"{self._control}/greengrass/v2/coreDevices/{quote(self._thing, safe='')}/associatedClientDevices"
            credentials = await self._token_exchange.credentials()
            headers = signed_headers(f"{url}?{query}", self._region, credentials, service="greengrass")
            answer = await self._ask("GET", f"{url}?{query}", headers=headers, identified=False)
            found |= {str(entry["thingName"]) for entry in answer.get("associatedClientDevices") or ()}
            token = str(answer.get("nextToken") or "")
            if not token:
                return found

    async def connectivity(self) -> list[dict[str, Any]]:
        """Where client devices are told to reach this core (GetConnectivityInfo)."""
        answer = await self._ask("GET", self._connectivity_url())
        return [entry for entry in answer.get("ConnectivityInfo") or () if isinstance(entry, dict)]

    async def update_connectivity(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Replace that (UpdateConnectivityInfo)."""
        await self._ask("PUT", self._connectivity_url(), {"ConnectivityInfo": list(entries)})

    def _connectivity_url(self) -> str:
        return f"{self._base}/things/{quote(self._thing, safe='')}/connectivityInfo"

    async def _ask(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        identified: bool = True,
    ) -> dict[str, Any]:
        """One attempt: a client device does not wait for a second one.

        Raises:
            RequestRejectedError: The answer is no.
            UnreachableError: There is none, or it is not about the question.
        """
        import httpx  # as in `CloudHttp`: a device starts without it

        try:
            client = self._http.client(identified=identified)
            response = await client.request(method, url, json=body, headers=headers, timeout=_TIMEOUT_S)
            answer = response.json()
        except (httpx.HTTPError, OSError) as exc:
            raise UnreachableError(f"{type(exc).__name__}: {exc}") from exc
        except ValueError as exc:
            raise UnreachableError(f"{url} did not answer with JSON: HTTP {response.status_code}") from exc
        if response.is_success and isinstance(answer, dict):
            return answer
        text = f"HTTP {response.status_code}: {response.text[:300]}"
        if response.status_code in (400, 404):
            raise RequestRejectedError(text, str(response.status_code))
        if response.status_code == 403:
            log.error("this core device may not ask about its client devices: %s", text)
        raise UnreachableError(text)


class Identities:
    """Verified client devices.

    Args:
        cloud: Asked first, each time.
        path: Where its answers are kept.
        documents: Where that is.
    """

    def __init__(self, cloud: DeviceCloud, path: Path, documents: Documents) -> None:
        self._cloud, self._path, self._documents = cloud, path, documents
        stored = documents.read(path)
        self._kept: dict[str, list[Any]] = stored if isinstance(stored, dict) else {}
        self._asking = asyncio.Semaphore(1)  # `maxConcurrentCloudRequests` by default
        self._waiting = 0

    async def refusal(self, certificate: bytes, thing: str, trusted_s: float) -> str:
        """Why a client is not the device that it says it is; empty if it is.

        Args:
            certificate: What it has shown (DER).
            thing: What it says.
            trusted_s: How long the cloud's last word counts while it gives none.
        """
        if not certificate:
            return f"{thing} has shown no certificate"
        certificate_id = hashlib.sha256(certificate).hexdigest()
        if self._waiting >= QUEUE:
            return f"{thing} must come later: {QUEUE} client devices wait for the cloud already"
        self._waiting += 1
        try:
            async with self._asking:
                refusal = await self._cloud.verify(ssl.DER_cert_to_PEM_cert(certificate), certificate_id, thing)
        except UnreachableError as exc:
            return self._remembered(thing, certificate_id, trusted_s, str(exc))
        finally:
            self._waiting -= 1
        if refusal:
            # Whoever else says that it is this thing takes nothing from it.
            if self._kept.get(thing, [None])[0] == certificate_id:
                self.forget(thing)
            return f"{thing} is no client device of this core by this certificate: {refusal}"
        self._kept.pop(thing, None)
        self._kept[thing] = [certificate_id, CLOCK.time()]
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        self._documents.write(self._path, self._kept)
        return ""

    def _remembered(self, thing: str, certificate_id: str, trusted_s: float, reason: str) -> str:
        known, verified_s = self._kept.get(thing) or ("", 0.0)
        if known == certificate_id and CLOCK.time() - verified_s <= trusted_s:
            log.info("client device %s is let in by what the cloud said before: %s", thing, reason)
            return ""
        rule = f"was not verified within {trusted_s / 60:g} min (security.clientDeviceTrustDurationMinutes)"
        return f"the cloud cannot be asked about {thing}, which {rule}: {reason}"

    def forget(self, thing: str) -> None:
        """Trust what the cloud said of a thing no more."""
        if self._kept.pop(thing, None) is not None:
            self._documents.write(self._path, self._kept)

    async def gone(self, connected: Collection[str]) -> set[str]:
        """Which of the connected things are no client devices of this core any more, and no longer trusted.

        Raises:
            UnreachableError: The cloud cannot say.
        """
        known = {*connected, *self._kept}  # who comes while the cloud lists may be on a page that was read before
        try:
            lost = known - await self._cloud.associated()
        except RequestRejectedError as exc:
            raise UnreachableError(str(exc)) from exc
        for thing in lost:
            self.forget(thing)
        return lost & set(connected)
