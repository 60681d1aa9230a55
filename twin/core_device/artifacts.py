"""A component version's artifacts: fetched, checked against the recipe, unpacked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .archive import unpack_zip
from .backoff import Backoff
from .cloud_http import ATTEMPTS, CloudHttp, is_transient
from .data_plane import DataPlane
from .dialect import LITE
from .errors import DeploymentError, RequestRejectedError
from .files import Layout
from .recipe import Artifact, Recipe
from .sigv4 import object_url, signed_headers
from .token_exchange import TokenExchange

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

ARTIFACT_LIMIT_BYTES = 2 << 30  # Greengrass' quota for the artifacts of a component version
_FORBIDDEN_ATTEMPTS = 3  # as nucleus lite: new credentials may need a moment to be known everywhere
_S3_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)/(.+)")


class ArtifactStore:
    """Fetches artifacts into the device's package folders.

    Args:
        layout: The folders.
        region: The buckets' region.
        http: The way to S3.
        token_exchange: Credentials for S3.
        data_plane: Finds artifacts that AWS keeps itself.
        default_mode: Rights of a file whose recipe has no Permission for it.
    """

    def __init__(
        self,
        layout: Layout,
        region: str,
        http: CloudHttp,
        token_exchange: TokenExchange,
        data_plane: DataPlane,
        default_mode: int = LITE.file_mode,
    ) -> None:
        self._default_mode = default_mode
        self._layout, self._region = layout, region
        self._http, self._token_exchange, self._data_plane = http, token_exchange, data_plane

    async def prepare(self, recipe: Recipe, arn: str) -> None:
        """Bring all artifacts of a component version onto the device; what is there and right is not fetched again.

        Raises:
            DeploymentError: An artifact is missing, cannot be fetched, has another digest, or cannot be unpacked.
        """
        folder = self._layout.artifacts(recipe.name, recipe.version)
        for artifact in recipe.artifacts:
            where = f"component {recipe.name} {recipe.version}, artifact {artifact.uri}"
            path = folder / artifact.file_name
            try:
                await self._bring(artifact, path, arn, where)
                if artifact.unzip:
                    unarchived = self._layout.unarchived(recipe.name, recipe.version) / path.stem
                    await asyncio.to_thread(unpack_zip, path, unarchived, mode=self._mode(artifact))
            except DeploymentError as exc:
                text = str(exc) if str(exc).startswith(where) else f"{where}: {exc}"
                raise DeploymentError(text, exc.kind) from exc
            except OSError as exc:
                raise DeploymentError(f"{where}: {exc}", "IO_ERROR") from exc

    def _mode(self, artifact: Artifact) -> int:
        return self._default_mode if artifact.mode is None else artifact.mode

    async def _bring(self, artifact: Artifact, path: Path, arn: str, where: str) -> None:
        if artifact.digest and path.is_file() and await asyncio.to_thread(_digest, path) == artifact.digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        try:
            await self._download(artifact, temporary, arn, where)
            got = await asyncio.to_thread(_digest, temporary)
            if artifact.digest and got != artifact.digest:
                raise DeploymentError(
                    f"{where}: the SHA-256 digest must be {artifact.digest}, got {got}: the object has changed since "
                    "the component version was created, create a new version",
                    "ARTIFACT_CHECKSUM_MISMATCH",
                )
            temporary.chmod(self._mode(artifact))
            temporary.replace(path)
            log.info("%s: fetched %d bytes", where, path.stat().st_size)
        finally:
            temporary.unlink(missing_ok=True)

    async def _download(self, artifact: Artifact, path: Path, arn: str, where: str) -> None:
        import httpx

        backoff, reason, forbidden = Backoff(0.5, 15.0), "", 0
        for number in range(1, ATTEMPTS + 1):
            try:
                url, headers = await self._request(artifact, arn, renew=forbidden > 0)
                async with self._http.client(identified=False).stream("GET", url, headers=headers) as response:
                    if response.is_success:
                        await _save(response, path, where)
                        return
                    body = (await response.aread())[:300].decode(errors="replace")
                    reason, status = f"HTTP {response.status_code}: {body}", response.status_code
            except httpx.TransportError as exc:
                reason, status = f"{type(exc).__name__}: {exc}", 0
            except RequestRejectedError as exc:
                raise DeploymentError(f"{where}: {exc}", "CLOUD_SERVICE_ERROR") from exc
            forbidden += status == 403
            final = status and not is_transient(status) and (status != 403 or forbidden >= _FORBIDDEN_ATTEMPTS)
            if final or number == ATTEMPTS:
                break
            log.warning("%s, attempt %d of %d: %s", where, number, ATTEMPTS, reason)
            await asyncio.sleep(backoff.next_s())
        raise DeploymentError(f"{where} cannot be downloaded: {reason}", "ARTIFACT_DOWNLOAD_ERROR")

    async def _request(self, artifact: Artifact, arn: str, *, renew: bool) -> tuple[str, dict[str, str]]:
        if match := _S3_URI.fullmatch(artifact.uri):
            url = object_url(match[1], match[2], self._region)
            return url, signed_headers(url, self._region, await self._token_exchange.credentials(renew=renew))
        if artifact.uri.startswith("greengrass:"):
            return await self._data_plane.artifact_url(arn, artifact.uri.removeprefix("greengrass:")), {}
        raise DeploymentError("an artifact's Uri must begin with s3:// or greengrass:", "UNSUPPORTED_ARTIFACT")


async def _save(response: httpx.Response, path: Path, where: str) -> None:
    size = 0
    with path.open("wb") as sink:
        async for chunk in response.aiter_raw(1 << 18):
            size += len(chunk)
            if size > ARTIFACT_LIMIT_BYTES:
                raise DeploymentError(f"{where} must be at most {ARTIFACT_LIMIT_BYTES} bytes", "ARTIFACT_TOO_LARGE")
            sink.write(chunk)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha256").digest()).decode()
