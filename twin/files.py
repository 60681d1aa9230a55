"""Files of the twin: texts that are written at once or not at all, what archives unpack."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, text: str, *, private: bool = False) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new one, of two writers the last one's.

    Args:
        path: The file; its folder exists.
        text: Written as UTF-8.
        private: Readable by its owner only.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        temporary.replace(path)
    except OSError:
        # On a full disk what is left of it would take the room of others.
        temporary.unlink(missing_ok=True)
        raise


_BEGUN, _COMPLETE = ".begun", ".complete"


def write_together(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace several files of a folder, all or none, whenever the process is killed.

    Args:
        folder: It exists; `finish_together` is to be called before it is read again.
        texts: By file name; written as UTF-8.

    Raises:
        OSError: If one cannot be written; then none is replaced.
    """
    finish_together(folder)
    begun = folder / _BEGUN
    try:
        begun.mkdir()
        for name, text in texts.items():
            (begun / name).write_text(text, encoding="utf-8")
        begun.rename(folder / _COMPLETE)
    except OSError:
        # On a full disk what is left of it would take the room of others.
        shutil.rmtree(begun, ignore_errors=True)
        raise
    finish_together(folder)


def finish_together(folder: Path) -> None:
    """End what `write_together` had begun when its process was killed; call it before the folder is read."""
    shutil.rmtree(folder / _BEGUN, ignore_errors=True)
    complete = folder / _COMPLETE
    if complete.is_dir():
        for path in complete.iterdir():
            path.replace(folder / path.name)
        complete.rmdir()


def try_room(folder: Path, size: int) -> None:
    """Find out whether a file of a size can be written, without writing it.

    Args:
        folder: Where; it exists.
        size: Bytes, at least 1.

    Raises:
        OSError: It cannot.
    """
    with tempfile.TemporaryFile(dir=folder) as probe:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(probe.fileno(), 0, size)
        else:
            probe.write(bytes(size))


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone can look into, whatever the umask; one that is there becomes so.

    Args:
        path: The folder; its parents are made as others are. One that is another user's, or for all as /tmp is, is
            left as it is.

    Returns:
        The same path.

    Raises:
        OSError: If it cannot be made.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid == os.getuid() and not found.st_mode & stat.S_ISVTX:
        path.chmod(0o700)
    return path


def private_opener(path: str, flags: int) -> int:
    """For `open(…, opener=…)`: a file that is made is its owner's alone."""
    return os.open(path, flags, 0o600)


PRIVATE_UMASK = 0o077
"""Of the twin's processes: what they write is their owner's alone."""


def unpack(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Extract one member below a folder, and nothing that leaves it.

    Args:
        archive: Open for reading.
        member: What to extract.
        folder: Where to.

    Raises:
        tarfile.TarError: If its path or a link leads out of the folder, or it is a device.
    """
    # Python 3.11.2, which Debian 12 brings, has no filters (they came with 3.11.4): links are refused there altogether.
    if hasattr(tarfile, "data_filter"):
        archive.extract(member, folder, filter="data")
        return
    inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
    if not inside or not (member.isreg() or member.isdir()):
        raise tarfile.ExtractError(f"a member must be a file or folder inside the archive, got {member.name!r}")
    archive.extract(member, folder, set_attrs=False)
