"""Files that are requests."""

import os
import stat
from pathlib import Path

from edge_inference.request import ErrorCode, Request, RequestError, json_object, of_message

PICTURE_BYTES = 16 << 20


def read_file(path: Path, max_bytes: int) -> Request:
    """Read a file as a request: JSON as on the request topic, anything else is taken for a picture.

    Args:
        path: The file; its name is the request's id.
        max_bytes: The largest JSON that is accepted; a picture may have 16 MiB.

    Returns:
        The request.

    Raises:
        RequestError: It is missing, no regular file, too large or not a request.
    """
    is_json = path.suffix.lower() == ".json"
    content = _read(path, max_bytes if is_json else PICTURE_BYTES)
    return of_message(json_object(content), path.name) if is_json else Request(path.name, image=content)


def _read(path: Path, limit: int) -> bytes:
    try:
        with open(path, "rb", buffering=0, opener=_open) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise RequestError(ErrorCode.INVALID_REQUEST, f"{path} must be a regular file", path.name)
            if status.st_size > limit:
                rule = f"{path} must have at most {limit} bytes, got {status.st_size}"
                raise RequestError(ErrorCode.REQUEST_TOO_LARGE, rule, path.name)
            # By the file's size: to ask for the limit would cost a buffer of that size, file after file.
            return stream.read(status.st_size)
    except OSError as exc:
        raise RequestError(ErrorCode.INVALID_REQUEST, f"{path} cannot be read: {exc.strerror}", path.name) from exc


def _open(name: str, flags: int) -> int:
    # Nobody may ever write into a pipe: opening it would wait for that.
    return os.open(name, flags | os.O_NONBLOCK)
