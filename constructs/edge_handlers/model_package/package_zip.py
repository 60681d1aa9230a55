"""Writes a zip whose bytes follow from the content alone.

Times, owners and the order of the folder leave no trace, and nothing is compressed: a deflate stream depends on the
zlib that wrote it, and weights hardly shrink.
"""

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold
MODE = 0o100644 << 16
UNIX = 3
CHUNK_BYTES = 1 << 20


def write(target: Path, files: Mapping[str, Path], texts: Mapping[str, bytes]) -> None:
    """Write the archive.

    Args:
        target: The zip to write; must not exist.
        files: Name in the archive → file on disk.
        texts: Name in the archive → content.

    Raises:
        ValueError: A name is in both.
        OSError: The disk is full.
    """
    both = files.keys() & texts.keys()
    if both:
        raise ValueError(f"a name must be in the archive once, got {sorted(both)} twice")
    with zipfile.ZipFile(target, "x", zipfile.ZIP_STORED) as archive:
        for name in sorted([*files, *texts]):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = MODE
            entry.create_system = UNIX
            if name in texts:
                archive.writestr(entry, texts[name])
                continue
            entry.file_size = files[name].stat().st_size
            with files[name].open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, CHUNK_BYTES)


def sha256(path: Path) -> str:
    """Return a file's digest, 64 lower-case hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
