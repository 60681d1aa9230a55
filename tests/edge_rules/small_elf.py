"""The smallest shared object that asks for versions of the C library, and a wheel with one in it."""

import io
import struct
import zipfile

_HEADER, _SECTION = 64, 64


def shared_object(*versions: str) -> bytes:
    """Write ELF for a 64-bit machine with a `.gnu.version_r` section.

    Args:
        versions: Such as `GLIBC_2.28`, all of one library.
    """
    strings = b"\0" + b"".join(version.encode() + b"\0" for version in versions)
    places = [1 + sum(len(each) + 1 for each in versions[:number]) for number in range(len(versions))]
    need = struct.pack("<HHIII", 1, len(versions), 0, 16, 0)
    for number, place in enumerate(places, 1):
        need += struct.pack("<IHHII", 0, 0, number, place, 16 if number < len(places) else 0)
    string_offset, need_offset = _HEADER, _HEADER + len(strings)
    table = need_offset + len(need)
    sections = [
        bytes(_SECTION),
        struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, string_offset, len(strings), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 0, 0x6FFFFFFE, 0, 0, need_offset, len(need), 1, 1, 4, 0),
    ]
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    fields = (3, 62, 1, 0, 0, table, 0, _HEADER, 0, 0, _SECTION, len(sections), 0)
    return identity + struct.pack("<HHIQQQIHHHHHH", *fields) + strings + need + b"".join(sections)


def wheel(version: str) -> bytes:
    """A wheel whose one module needs this glibc, such as `2.28`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("package/module.so", shared_object("GLIBC_2.2.5", f"GLIBC_{version}"))
    return content.getvalue()
