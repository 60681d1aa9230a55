"""Unpacking ZIP archives that may be hostile."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from .dialect import LITE
from .errors import DeploymentError

ENTRY_LIMIT = 100_000
UNPACKED_LIMIT_BYTES = 4 << 30  # twice what Greengrass allows for a component's artifacts
RATIO_LIMIT = 200  # deflate reaches 1,032; honest archives of code and weights stay below 20
_RATIO_FREE_BYTES = 16 << 20


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
