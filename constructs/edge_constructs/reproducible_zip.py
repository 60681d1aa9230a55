"""Zip archives whose bytes depend on nothing but the names and contents of their files."""

import hashlib
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

#: The oldest moment that a zip can hold: a real time would change the archive at every build.
TIMESTAMP = (1980, 1, 1, 0, 0, 0)
FILE_MODE = 0o100644
CHUNK_BYTES = 1 << 20


#: What editors, merges and desktops leave beside files, whatever the folder is for.
_LEFTOVER = re.compile(
    r"Thumbs\.db|ehthumbs\.db|desktop\.ini|Icon\r|__MACOSX|\.DS_Store|\._.*|\.#.*|#.*#|.*~|.*\.(orig|rej|bak|sw[a-p]|py[co])",
    re.IGNORECASE,
)
_BYTECODE = "__pycache__"


class StrangerError(ValueError):
    """Something lies in a folder that does not belong into its archive; the text names it and says what to do."""


def is_leftover(path: Path) -> bool:
    """Whether a path below a folder is, or lies in, what editors, merges, desktops and Python leave behind."""
    return any(part == _BYTECODE or _LEFTOVER.fullmatch(part) for part in path.parts)


def leftovers(folder: Path) -> list[str]:
    """List what is left behind below a folder and is part of no archive, Python's own files aside.

    Args:
        folder: Any folder.

    Returns:
        Paths relative to it, sorted.
    """
    found = (path.relative_to(folder) for path in folder.rglob("*") if _LEFTOVER.fullmatch(path.name))
    return sorted(path.as_posix() for path in found if not is_bytecode(path) and path.suffix != ".pyo")


def _is_left_out(path: Path) -> bool:
    return is_leftover(path) or any(part.startswith(".") for part in path.parts)


def is_bytecode(path: Path) -> bool:
    """Whether Python made a file by itself."""
    return _BYTECODE in path.parts or path.suffix == ".pyc"


def files_below(
    folder: Path, left_out: Callable[[Path], bool] = _is_left_out, root: Path | None = None
) -> dict[str, Path]:
    """List what an archive of a folder would hold: the same in every checkout of the same files.

    Args:
        folder: Any folder.
        left_out: Whether a path below the folder is left out; by default hidden files and leftovers are, because they
            differ from machine to machine.
        root: Where links may lead, such as the folder that all assets lie in; the folder by default.

    Returns:
        Path in the archive (relative to the folder, `/` between levels) to file, sorted.

    Raises:
        StrangerError: A name is not UTF-8, or a link leads out of the root, nowhere or to a folder.
        ValueError: The folder is missing or holds no file.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if left_out(relative):
            continue
        check_member(path, folder, root)
        if path.is_file():
            found[relative.as_posix()] = path
    if not found:
        raise ValueError(f"a folder to archive must hold at least one file, got {folder}")
    return found


def check_member(path: Path, folder: Path, root: Path | None = None) -> None:
    """Check that a file may travel under its name, and with its content.

    Args:
        path: The file, or a folder, below the folder.
        folder: What is archived.
        root: Where links may lead; the folder by default, or where it does not lie in the root.

    Raises:
        StrangerError: Its name is not UTF-8, or it is, or lies behind, a link that leads out of the root, nowhere or to
            a folder.
    """
    name = path.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as exc:
        raise StrangerError(f"{folder}: a file's name must be UTF-8, got {os.fsencode(name)!r}: rename it") from exc
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a ring, before Python 3.13
        raise StrangerError(f"{folder}: {name} is a link that leads nowhere: delete it, or copy the file") from exc
    inside = root if root and folder.is_relative_to(root) else folder
    if not real.is_relative_to(inside.resolve()):
        raise StrangerError(f"{folder}: {name} is a link that leads out of {inside.name}, to {real}: copy the file")
    if path.is_symlink() and path.is_dir():
        raise StrangerError(f"{folder}: {name} is a link to a folder, whose files would not travel: copy the folder")
    if not (path.is_dir() or path.is_file()):
        raise StrangerError(f"{folder}: {name} must be a file or a folder: delete it")


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
        archive.writestr(entry, content, compresslevel=9)
        return
    # Sizes are written into the header up front, so that the archive needs no data descriptors.
    entry.file_size = content.stat().st_size
    with content.open("rb") as source, archive.open(entry, "w") as target:
        shutil.copyfileobj(source, target, CHUNK_BYTES)
