"""A component version's artifacts: fetched, checked against the recipe, unpacked, removed."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from twin.clock import CLOCK
from twin.core_device.cloud.credentials import TokenExchange, object_url, signed_headers
from twin.core_device.cloud.https import ATTEMPTS, CloudHttp, DataPlane, is_transient
from twin.core_device.components.recipe import Artifact, Recipe
from twin.core_device.dialect import LITE
from twin.core_device.errors import Backoff, DeploymentError, RequestRejectedError
from twin.core_device.files import Layout

if TYPE_CHECKING:
    import httpx


log = logging.getLogger(__name__)

ARTIFACT_LIMIT_BYTES = 2 << 30  # Greengrass' quota for the artifacts of a component version
_FORBIDDEN_ATTEMPTS = 3  # as nucleus lite: new credentials may need a moment to be known everywhere
_S3_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)/(.+)")
ENTRY_LIMIT = 100_000
UNPACKED_LIMIT_BYTES = 4 << 30  # twice what Greengrass allows for a component's artifacts
RATIO_LIMIT = 200  # deflate reaches 1,032; honest archives of code and weights stay below 20
_RATIO_FREE_BYTES = 16 << 20


class Artifacts(Protocol):
    """Brings the artifacts of a component version onto a device."""

    async def prepare(self, recipe: Recipe, arn: str) -> None:
        """As `ArtifactStore.prepare`."""


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
        if artifact.digest and path.is_file() and await asyncio.to_thread(digest_of, path) == artifact.digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        try:
            await self._download(artifact, temporary, arn, where)
            got = await asyncio.to_thread(digest_of, temporary)
            self._check(artifact, got, where)
            temporary.chmod(self._mode(artifact))
            temporary.replace(path)
            log.info("%s: fetched %d bytes", where, path.stat().st_size)
        finally:
            temporary.unlink(missing_ok=True)

    def _check(self, artifact: Artifact, got: str, where: str) -> None:
        if artifact.digest and got != artifact.digest:
            raise DeploymentError(
                f"{where}: the SHA-256 digest must be {artifact.digest}, got {got}: the object has changed since "
                "the component version was created, create a new version",
                "ARTIFACT_CHECKSUM_MISMATCH",
            )

    async def _download(
        self, artifact: Artifact, path: Path, arn: str, where: str, *, tag: str | None = None
    ) -> str | None:
        """Fetch an object into a file; its ETag, or None where it still has the given one and nothing came."""
        import httpx

        backoff, reason, forbidden = Backoff(0.5, 15.0), "", 0
        for number in range(1, ATTEMPTS + 1):
            try:
                url, headers = await self._request(artifact, arn, renew=forbidden > 0)
                if tag:
                    headers = {**headers, "if-none-match": tag}
                async with self._http.client(identified=False).stream("GET", url, headers=headers) as response:
                    if tag and response.status_code == HTTPStatus.NOT_MODIFIED:
                        return None
                    if response.is_success:
                        await _save(response, path, where)
                        return str(response.headers.get("etag", ""))
                    body = (await response.aread())[:300].decode(errors="replace")
                    reason, status = f"HTTP {response.status_code}: {body}", response.status_code
            except httpx.TransportError as exc:
                reason, status = f"{type(exc).__name__}: {exc}", 0
            except RequestRejectedError as exc:
                raise DeploymentError(f"{where}: {exc}", "CLOUD_SERVICE_ERROR") from exc
            # S3 says 400 of credentials whose life has ended
            refused = status == 403 or (status == 400 and "ExpiredToken" in reason)
            forbidden += refused
            final = status and not is_transient(status) and (not refused or forbidden >= _FORBIDDEN_ATTEMPTS)
            if final or number == ATTEMPTS:
                break
            log.warning("%s, attempt %d of %d: %s", where, number, ATTEMPTS, reason)
            await CLOCK.sleep(backoff.next_s())
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


def digest_of(path: Path) -> str:
    """Base64 of a file's SHA-256."""
    with path.open("rb") as stream:
        return base64.b64encode(hashlib.file_digest(stream, "sha256").digest()).decode()


def unpack_zip(
    archive: Path, folder: Path, limit_bytes: int = UNPACKED_LIMIT_BYTES, *, mode: int = LITE.file_mode
) -> None:
    """Unpack an archive into a folder that appears whole or not at all.

    Args:
        archive: The ZIP file.
        folder: Where its content goes; replaced when it exists.
        limit_bytes: The largest content in all.
        mode: Rights of every file, whatever the archive says: no nucleus asks it.

    Raises:
        DeploymentError: Not a ZIP file, damaged, out of proportion, or an entry would leave the folder or is a link.
    """
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            _check(archive, entries, limit_bytes)
            for entry in entries:
                _unpack(content, entry, temporary, mode)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as exc:
        shutil.rmtree(temporary, ignore_errors=True)
        raise DeploymentError(
            f"{archive.name} is not a readable ZIP archive: {exc}", "ARTIFACT_UNARCHIVE_ERROR"
        ) from exc
    except (DeploymentError, OSError):
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)


def _check(archive: Path, entries: list[zipfile.ZipInfo], limit_bytes: int) -> None:
    def refuse(reason: str) -> DeploymentError:
        return DeploymentError(f"{archive.name} is refused: {reason}", "ARTIFACT_UNARCHIVE_ERROR")

    if len(entries) > ENTRY_LIMIT:
        raise refuse(f"it must have at most {ENTRY_LIMIT} entries, got {len(entries)}")
    total = sum(entry.file_size for entry in entries)
    allowed = min(limit_bytes, max(_RATIO_FREE_BYTES, archive.stat().st_size * RATIO_LIMIT))
    if total > allowed:
        raise refuse(f"it must unpack to at most {allowed} bytes, got {total}")
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise refuse(f"the entry {entry.filename!r} is outside of the folder")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise refuse(f"the entry {entry.filename!r} is a symbolic link")


def _unpack(content: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, mode: int) -> None:
    target = folder / PurePosixPath(entry.filename.replace("\\", "/"))
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # A ZipExtFile never yields more than the size that was checked above.
    with content.open(entry) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    target.chmod(mode)


def remove_unused(layout: Layout, versions: Mapping[str, str]) -> None:
    """Remove recipes and artifacts of every version that is not on the device.

    Args:
        layout: The device's folders.
        versions: Version by name of the components to keep.
    """
    kept = {layout.recipe(name, version) for name, version in versions.items()}
    for recipe in layout.documents.below(layout.recipe("any", "0").parent):
        if recipe not in kept:
            layout.documents.remove(recipe)
    for folder_of in (layout.artifacts, layout.unarchived):
        folders = {folder_of(name, version) for name, version in versions.items()}
        for component in folder_of("any", "0").parent.parent.glob("*"):
            for version_folder in component.glob("*"):
                if version_folder not in folders:
                    shutil.rmtree(version_folder, ignore_errors=True)
            if not any(component.iterdir()):
                component.rmdir()
