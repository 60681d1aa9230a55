"""Model archives for the tests, good and bad."""

import gzip
import io
import tarfile
from collections.abc import Mapping


def targz(files: Mapping[str, bytes], *, extra: tuple[tarfile.TarInfo, ...] = (), seconds: int = 0) -> bytes:
    """A tar.gz of files.

    Args:
        files: Name → content.
        extra: Members without content, such as links.
        seconds: Time of every member.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = seconds
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return gzip.compress(buffer.getvalue(), mtime=seconds)


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    """A member that is not a file."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member
