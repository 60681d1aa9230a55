"""Which glibc a shared object needs, read out of its version needs (ELF's `.gnu.version_r`), without running it."""

import struct
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

Version = tuple[int, ...]
_VERNEED = 0x6FFFFFFE
_PREFIX = "GLIBC_"


class SharedObjectError(ValueError):
    """A file is no shared object of a 64-bit machine with the lower byte first."""


def needed_glibc(content: bytes) -> Version | None:
    """Find the newest glibc that a shared object asks for.

    Args:
        content: The file's bytes.

    Returns:
        Its version, such as `(2, 28)`; None if it asks for none, as one linked to musl or to nothing.

    Raises:
        SharedObjectError: It is no ELF file of a 64-bit machine, lower byte first, or is cut off.
    """
    if content[:6] != b"\x7fELF\x02\x01":
        raise SharedObjectError(f"a shared object must be ELF, 64 bits, lower byte first, got {content[:6]!r}")
    try:
        return max(_glibc_needs(content), default=None)
    except (struct.error, IndexError) as exc:
        raise SharedObjectError(f"a shared object must be whole: {exc}") from exc


def _glibc_needs(content: bytes) -> Iterator[Version]:
    table, size, count = struct.unpack_from("<Q10xHH", content, 0x28)
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, table + number * size) for number in range(count)]
    for section in sections:
        if section[1] != _VERNEED:
            continue
        strings = sections[section[6]][4]
        need = section[4]
        for _ in range(section[7]):
            _, versions, _, auxiliary, following = struct.unpack_from("<HHIII", content, need)
            place = need + auxiliary
            for _ in range(versions):
                _, _, _, name, next_one = struct.unpack_from("<IHHII", content, place)
                text = content[strings + name : content.index(b"\0", strings + name)].decode()
                # GLIBC_PRIVATE is no version: such an object belongs to one glibc alone.
                if text.startswith(_PREFIX) and text[len(_PREFIX)].isdigit():
                    yield tuple(map(int, text[len(_PREFIX) :].split(".")))
                place += next_one
            need += following


def _is_shared_object(name: str) -> bool:
    return name.endswith(".so") or ".so." in name.rsplit("/", 1)[-1]


#: Who asks for an archive that is being read ahead waits for it, and does not read it again.
_reading: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def glibc_needs(place: Path) -> tuple[tuple[str, Version], ...]:
    """Read all shared objects of a folder or a zip, those in its wheels included.

    Args:
        place: A folder, or an archive; any other file has none.

    Returns:
        Path of the object below it, a wheel's name first where it lies in one, and what it needs; without those that
        need no glibc or are for another kind of machine.
    """
    with _reading[place]:
        return _read(place)


@contextmanager
def read_ahead(places: Sequence[Path]) -> Iterator[None]:
    """Read archives in a thread while the block runs, so that `glibc_needs` has them at once.

    Unpacking a runtime's wheels takes most of a second, and nothing of the interpreter: it goes on while Node works. At
    the block's end no more is begun: a folder keeps the archives of earlier synths, which nobody asks for.

    Args:
        places: Archives; what cannot be read is left to who asks for it.
    """
    ended = threading.Event()

    def read() -> None:
        for place in places:
            if ended.is_set():
                return
            with suppress(Exception):
                glibc_needs(place)

    threading.Thread(target=read, name="read ahead").start()
    try:
        yield
    finally:
        ended.set()


@lru_cache(maxsize=64)
def _read(place: Path) -> tuple[tuple[str, Version], ...]:
    if place.is_dir():
        files = (file for file in sorted(place.rglob("*")) if file.is_file() and _is_shared_object(file.name))
        found = ((str(file.relative_to(place)), _needs(file.read_bytes())) for file in files)
        return tuple((name, needs) for name, needs in found if needs)
    if place.is_file() and zipfile.is_zipfile(place):
        with place.open("rb") as file:
            return tuple(_in_zip(file, ""))
    return ()


def _in_zip(file: BinaryIO, before: str) -> Iterator[tuple[str, Version]]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith(".whl") and archive.getinfo(name).file_size:
                yield from _in_zip(BytesIO(archive.read(name)), f"{name.rsplit('/', 1)[-1]}: ")
            elif _is_shared_object(name) and (needs := _needs(archive.read(name))):
                yield before + name, needs


def _needs(content: bytes) -> Version | None:
    try:
        return needed_glibc(content)
    except SharedObjectError:
        return None
