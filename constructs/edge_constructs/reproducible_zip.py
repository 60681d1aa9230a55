"""Zip archives whose bytes depend on nothing but the names and contents of their files."""

import hashlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

#: The oldest moment that a zip can hold: a real time would change the archive at every build.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
FILE_MODE = 0o100644
CHUNK_BYTES = 1 << 20


def _is_left_out(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts)


def files_below(folder: Path, left_out: Callable[[Path], bool] = _is_left_out) -> dict[str, Path]:
    """List what an archive of a folder would hold.

    Args:
        folder: Any folder; Python's bytecode in it is left out, because it differs from machine to machine.
        left_out: Whether a path below the folder is left out, too; hidden ones by default, for the same reason.

    Returns:
        Path in the archive (relative to the folder, `/` between levels) to file, sorted.

    Raises:
        ValueError: The folder is missing or holds no file.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and not left_out(path.relative_to(folder))
    }
    if not found:
        raise ValueError(f"a folder to archive must hold at least one file, got {folder}")
    return found


def write_zip(destination: Path, members: Mapping[str, Path | bytes], *, compress: bool = False) -> str:
    """Write an archive; the same members give the same bytes on every machine, at any time.

    Members are stored, not compressed: the output of a deflate library may change with its version, and with it a
    component's version would. The file appears complete or not at all.

    Args:
        destination: The archive; its folder is made when missing, an existing file is replaced.
        members: Path in the archive to the file, or to its contents.
        compress: Whether to deflate: for small archives of text that travel often, where the worst that another deflate
            library does is one more download of some kilobytes.

    Returns:
        SHA-256 of the archive, 64 lower-case hex digits.

    Raises:
        ValueError: A path in the archive is absolute or climbs out of it.
    """
    for name in members:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
            raise ValueError(f"a path in an archive must be relative, plain and inside it, got {name!r}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(members):
                _add(archive, name, members[name], zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED)
        Path(partial).chmod(0o644)
        Path(partial).replace(destination)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
    return sha256_of(destination)


def sha256_of(path: Path) -> str:
    """Digest a file without holding it in memory.

    Args:
        path: The file.

    Returns:
        Its SHA-256, 64 lower-case hex digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _add(archive: zipfile.ZipFile, name: str, content: Path | bytes, method: int) -> None:
    entry = zipfile.ZipInfo(name, TIMESTAMP)
    entry.compress_type = method
    entry.create_system = 3  # Unix, whatever the machine that builds: the mode below is a Unix one.
    entry.external_attr = FILE_MODE << 16
    if isinstance(content, bytes):
        archive.writestr(entry, content)
        return
    # Sizes are written into the header up front, so that the archive needs no data descriptors.
    entry.file_size = content.stat().st_size
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
