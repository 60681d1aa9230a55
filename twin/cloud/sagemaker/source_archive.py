"""The .tar.gz archives that go into and come out of a compilation job."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from pathlib import Path

LIMIT_BYTES = 2 * 1024**3


class InputError(Exception):
    """The customer's input is at fault; the text is the job's failure reason after its prefix."""


def extract_model(archive: Path, folder: Path) -> Path:
    """Unpack a source archive and find its model.

    Args:
        archive: A gzip-compressed tar.
        folder: Where to unpack; empty.

    Returns:
        Path of the only `.onnx` file.

    Raises:
        InputError: If the archive is damaged, unpacks to more than 2 GiB, holds a path or link that leaves the folder,
            or not exactly one `.onnx` file.
    """
    try:
        with tarfile.open(archive, "r:gz") as tar:
            size = 0
            for member in tar:
                size += member.size
                if size > LIMIT_BYTES:
                    raise InputError(f"the archive must unpack to at most {LIMIT_BYTES} bytes, got more")
                tar.extract(member, folder, filter="data")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as exc:
        raise InputError(f"the model artifact must be a readable .tar.gz archive: {exc}") from exc
    models = [path for path in sorted(folder.rglob("*.onnx")) if path.is_file()]
    if len(models) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in models) or "none"
        raise InputError(f"the archive must hold exactly one file with the extension .onnx, got {names}")
    return models[0]


def pack_model(model: bytes) -> bytes:
    """The output archive: `model.onnx` alone, the same bytes for the same model.

    Args:
        model: The compiled model.

    Returns:
        A gzip-compressed tar without times or owners.
    """
    compressed = io.BytesIO()
    with gzip.GzipFile(fileobj=compressed, mode="wb", mtime=0) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        entry = tarfile.TarInfo("model.onnx")
        entry.size = len(model)
        entry.mode = 0o644
        tar.addfile(entry, io.BytesIO(model))
    return compressed.getvalue()
