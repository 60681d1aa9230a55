"""Handwritten digits as clients send them: 8x8 grey images as PNG."""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

#: The darkest value of scikit-learn's digits; in a PNG it becomes 255.
MAXIMUM = 16
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_8_BIT = (8, 0, 0, 0, 0)


def digit_png(image: NDArray[np.generic]) -> bytes:
    """Encode a digit of scikit-learn's data set, the inverse of what the digit model's pre-processing does.

    Args:
        image: Values from 0 to 16, shape (height, width), as in `samples.npz`.

    Returns:
        A grey 8-bit PNG of that size, 0 to 255.

    Raises:
        ValueError: The image is not two-dimensional, or a value lies outside 0 to 16.
    """
    values = np.asarray(image, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"image must have the shape (height, width), got {values.shape}")
    if not (values.min() >= 0 and values.max() <= MAXIMUM):
        raise ValueError(f"image must hold values from 0 to {MAXIMUM}, got {values.min():g} to {values.max():g}")
    pixels = np.rint(values * (255 / MAXIMUM)).astype(np.uint8)
    height, width = pixels.shape
    # Each row starts with the number of its filter: 0, none.
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, *_GREY_8_BIT)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
