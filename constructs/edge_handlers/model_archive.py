"""Model archives (tar.gz): unpacked from S3 without trusting them, and packed.

The archive is read as a stream: the only copy on disk is that of the members. Names that leave the folder, links and
devices are refused, and sizes are counted after decompression, so that a small archive cannot fill the disk.
"""

import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from botocore.exceptions import HTTPClientError, IncompleteReadError, ResponseStreamingError

from edge_handlers.s3_objects import CHUNK_BYTES, S3Location
from edge_handlers.service_client import explaining

MAX_FILES = 1_000
MAX_BYTES = 2_000_000_000  # a Greengrass component takes 2 GB of artifacts
DOWNLOADS = 3  # botocore repeats a call, but not a body whose connection breaks half way
# The last three: the same name stands for a file and for a folder.
DAMAGE = (
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
BROKEN_BODY = (IncompleteReadError, ResponseStreamingError, HTTPClientError)


class ArchiveError(ValueError):
    """The archive cannot be a model; the text names it, what is wrong and what to do."""


def fetch(place: S3Location, folder: Path, s3: Any, max_bytes: int = MAX_BYTES) -> tuple[str, ...]:
    """Unpack an archive.

    Args:
        place: The .tar.gz object.
        folder: Where to; made here, and emptied first if it exists.
        s3: A boto3 S3 client.
        max_bytes: Limit of the unpacked size, tar headers included.

    Returns:
        The members' names, sorted, relative, with forward slashes.

    Raises:
        ArchiveError: It is not a gzip-compressed tar, is damaged, breaks a rule, or holds no file.
        AwsCallError: S3 refused the call.
        BotoCoreError: The connection broke `DOWNLOADS` times.
    """
    for attempt in range(1, DOWNLOADS + 1):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with explaining(f"read model archive {place}"):
            body = s3.get_object(Bucket=place.bucket, Key=place.key)["Body"]
        try:
            with body:
                return _unpack(body, place, folder, max_bytes)
        except BROKEN_BODY:
            if attempt == DOWNLOADS:
                raise
        except DAMAGE as exc:
            raise ArchiveError(
                f"model archive {place} must be a whole .tar.gz, got a damaged one: {exc}; build and upload it again"
            ) from exc
    raise AssertionError("the loop returns or raises")


def pack(files: Mapping[str, Path], target: Path) -> None:
    """Write an archive whose bytes follow from its files alone; not compressed, because weights hardly shrink.

    Args:
        files: Name in the archive to the file to pack.
        target: The archive.
    """
    with target.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", filename="", compresslevel=0, mtime=0) as file:
        stream = io.BufferedWriter(file)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, file_in in sorted(files.items()):
                entry = tarfile.TarInfo(name)
                entry.size = file_in.stat().st_size
                with file_in.open("rb") as content:
                    archive.addfile(entry, content)
        stream.flush()


def _unpack(body: IO[bytes], place: S3Location, folder: Path, max_bytes: int) -> tuple[str, ...]:
    names: list[str] = []
    plain = _Bounded(gzip.GzipFile(fileobj=body), place, max_bytes)
    with tarfile.open(fileobj=plain, mode="r|") as tar:
        for member in tar:
            if member.isdir():
                continue
            name = _checked_name(member, place)
            if name in names:
                raise ArchiveError(f"model archive {place} must hold each file once, got {name!r} twice; pack it again")
            if len(names) == MAX_FILES:
                raise ArchiveError(
                    f"model archive {place} must hold at most {MAX_FILES} files, got more; pack it again"
                )
            content = tar.extractfile(member)
            if content is None:
                raise tarfile.ReadError(f"{name} has no content")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file, CHUNK_BYTES)
            names.append(name)
    # The checksum stands at the end of the stream, behind the end of the tar.
    while plain.read(CHUNK_BYTES):
        pass
    if not names:
        raise ArchiveError(f"model archive {place} must hold the model, got no file; pack it again")
    return tuple(sorted(names))


def _checked_name(member: tarfile.TarInfo, place: S3Location) -> str:
    """Return a member's name without a leading "./" after checking what it is and where it leads."""
    if not member.isfile() or member.issparse():  # a sparse file's zeros would escape the limit
        raise ArchiveError(
            f"model archive {place} must hold regular files only, got {member.name!r}, "
            "a link, device or sparse file; pack it again with links followed (tar --dereference)"
        )
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not path.parts or not member.name.isprintable():
        raise ArchiveError(
            f"model archive {place} must hold relative paths inside it, got {member.name!r}; "
            "pack it from inside the model's folder (tar -C FOLDER .)"
        )
    return path.as_posix()


class _Bounded(io.RawIOBase):
    """Hands on a decompressed stream and stops it at a limit."""

    def __init__(self, source: gzip.GzipFile, place: S3Location, max_bytes: int) -> None:
        self._source = source
        self._place = place
        self._max_bytes = max_bytes
        self._seen = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(CHUNK_BYTES if size < 0 else size)
        self._seen += len(data)
        if self._seen > self._max_bytes:
            raise ArchiveError(
                f"model archive {self._place} must unpack to at most {self._max_bytes} bytes, got more; "
                "leave out what the device does not need"
            )
        return data
