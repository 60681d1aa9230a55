"""HTTPS to the cloud: the device's certificate, its trusted root, its proxy, and what a deployment asks."""

from __future__ import annotations

import base64
import json
import logging
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from twin.clock import CLOCK
from twin.core_device.configuration import Configuration
from twin.core_device.errors import Backoff, DeploymentError, RequestRejectedError

if TYPE_CHECKING:
    import httpx


log = logging.getLogger(__name__)

ATTEMPTS = 8  # one, then seven retries as nucleus lite makes
_TIMEOUT_S = 15.0


def tls_context(configuration: Configuration) -> ssl.SSLContext:
    """A client context that trusts the configured root only, and shows no certificate.

    Args:
        configuration: Where the root's file is.
    """
    context = ssl.create_default_context(cafile=str(configuration.system.root_ca_path))
    # Private roots are often made without the key usage extension, which newer OpenSSL flags insist on.
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    return context


class DeviceTls:
    """A device's TLS contexts, and the identity that they show.

    Args:
        configuration: Where the files are.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration

    def context(self, *, identified: bool) -> ssl.SSLContext:
        """As `tls_context`; an identified one presents the device's certificate."""
        context = tls_context(self._configuration)
        if identified:
            self.renew(context)
        return context

    def renew(self, context: ssl.SSLContext) -> None:
        """Give a context the device's certificate and key as they are now: a rotation replaces both files.

        Args:
            context: Connections that it makes from here on show them.

        Raises:
            OSError: One is missing, is none, or the two do not belong together (ssl.SSLError).
        """
        system = self._configuration.system
        context.load_cert_chain(system.certificate_path, system.private_key_path)

    def version(self) -> tuple[float, ...]:
        """What differs once certificate or key are replaced.

        Raises:
            OSError: One is missing.
        """
        system = self._configuration.system
        found = [path.stat() for path in (system.certificate_path, system.private_key_path)]
        return tuple(float(number) for each in found for number in (each.st_ino, each.st_mtime_ns, each.st_size))


class CloudHttp:
    """HTTPS clients made at first use.

    Args:
        configuration: Certificate, root and proxy.
        tls: What it shows; by default what the configuration names.
    """

    def __init__(self, configuration: Configuration, tls: DeviceTls | None = None) -> None:
        self._configuration, self._tls = configuration, tls or DeviceTls(configuration)
        self._clients: dict[bool, httpx.AsyncClient] = {}
        self._former: list[httpx.AsyncClient] = []
        self._shown: tuple[float, ...] | None = None

    def client(self, *, identified: bool) -> httpx.AsyncClient:
        """The client with the device's certificate, or the one without."""
        import httpx  # the device starts without it: it is only needed in a deployment

        if identified not in self._clients:
            self._clients[identified] = httpx.AsyncClient(
                verify=self._tls.context(identified=identified),
                proxy=self._configuration.nucleus.proxy_url,
                trust_env=False,
                timeout=_TIMEOUT_S,
                limits=httpx.Limits(max_keepalive_connections=2, keepalive_expiry=20),
            )
        return self._clients[identified]

    async def request(self, method: str, url: str, *, what: str, **options: object) -> httpx.Response:
        """Make a request with the device's certificate until it is answered.

        Args:
            method: HTTP method.
            url: Absolute URL.
            what: What is asked, for the errors.
            options: As for `httpx.AsyncClient.request`.

        Returns:
            The successful response.

        Raises:
            RequestRejectedError: The answer is a final refusal, or no attempt of eight was answered.
        """
        import httpx

        async def attempt() -> httpx.Response:
            self._take_new_identity()
            return await self.client(identified=True).request(method, url, **options)  # type: ignore[arg-type]

        backoff, reason = Backoff(0.5, 15.0), ""
        for number in range(1, ATTEMPTS + 1):
            try:
                response = await attempt()
            except (httpx.TransportError, OSError) as exc:
                reason = f"{type(exc).__name__}: {exc}"
            else:
                if response.is_success:
                    return response
                reason = f"HTTP {response.status_code}: {response.text[:300]}"
                if not is_transient(response.status_code):
                    raise RequestRejectedError(f"{what} was refused by {url}: {reason}", str(response.status_code))
            log.warning("%s, attempt %d of %d: %s", what, number, ATTEMPTS, reason)
            if number < ATTEMPTS:
                await CLOCK.sleep(backoff.next_s())
        raise RequestRejectedError(f"{what} failed {ATTEMPTS} times at {url}: {reason}")

    def _take_new_identity(self) -> None:
        """Show the certificate that is on disk now, not that of a connection which is still open."""
        shown = self._tls.version()
        if self._shown not in (None, shown) and True in self._clients:
            # A request that is under way ends by it.
            self._former.append(self._clients.pop(True))
        self._shown = shown

    async def close(self) -> None:
        """Close the connections."""
        for client in (*self._clients.values(), *self._former):
            await client.aclose()
        self._clients.clear()
        self._former.clear()


def is_transient(status: int) -> bool:
    """Tell whether an HTTP status is worth another attempt."""
    return status == 429 or status >= 500


class DataPlane:
    """Client of the Greengrass data plane.

    Args:
        configuration: Endpoint and thing name.
        http: The way to the cloud.
    """

    def __init__(self, configuration: Configuration, http: CloudHttp) -> None:
        nucleus = configuration.nucleus
        self._base = f"https://{nucleus.data_endpoint}:{nucleus.data_plane_port}/greengrass/v2"
        self._thing_name = configuration.system.thing_name
        self._http = http

    async def thing_groups(self) -> set[str]:
        """Names of the thing groups that the device is in."""
        url = f"{self._base}/coreDevices/{quote(self._thing_name, safe='')}/thingGroups"
        answer = await self._ask("GET", url, "the list of the device's thing groups")
        return {group["thingGroupName"] for group in answer["thingGroups"]}

    async def resolve(self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str]) -> dict[str, Any]:
        """The newest version of a component that meets all requirements.

        Args:
            name: The component.
            requirements: Version range by who wants it.
            platform: From `recipe.device_platform`.

        Returns:
            The canonical recipe, with the version's ARN added under `arn`.
        """
        attributes = dict(platform)
        body = {
            "componentCandidates": [{"componentName": name, "versionRequirements": dict(requirements)}],
            "platform": {"name": attributes["os"], "attributes": attributes},
        }
        what = f"component {name} {dict(requirements)}"
        answer = await self._ask("POST", f"{self._base}/resolveComponentCandidates", what, body)
        try:
            (resolved,) = answer["resolvedComponentVersions"]
            recipe = json.loads(base64.b64decode(resolved["recipe"]))
            return {**recipe, "arn": resolved["arn"]}
        except (KeyError, TypeError, ValueError, RecursionError) as exc:
            raise DeploymentError(f"{what}: the answer of the data plane is not understood: {exc!r}") from exc

    async def artifact_url(self, arn: str, path: str) -> str:
        """A pre-signed URL of an artifact that AWS keeps itself (`greengrass:` URIs)."""
        url = f"{self._base}/components/{quote(arn, safe='')}/artifacts/{quote(path)}"
        answer = await self._ask("GET", url, f"the location of the artifact {path}")
        return str(answer["preSignedUrl"])

    async def _ask(self, method: str, url: str, what: str, body: Any = None) -> dict[str, Any]:
        try:
            response = await self._http.request(method, url, what=what, json=body)
            answer = response.json()
        except RequestRejectedError as exc:
            kind = "COMPONENT_VERSION_REQUIREMENTS_NOT_MET" if exc.code == "404" else "CLOUD_SERVICE_ERROR"
            raise DeploymentError(str(exc), kind) from exc
        except ValueError as exc:
            raise DeploymentError(f"{what}: {url} did not answer with JSON", "CLOUD_SERVICE_ERROR") from exc
        if not isinstance(answer, dict):
            raise DeploymentError(f"{what}: {url} did not answer with a JSON object", "CLOUD_SERVICE_ERROR")
        return answer
