"""Decoding pictures that strangers send."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_inference.request import ErrorCode, RequestError

FORMATS = ("PNG", "JPEG")
#: A small file can unpack to gigabytes; 25 million pixels are more than an industrial camera sends.
MAX_PIXELS = 25_000_000


def decode(data: bytes, width: int, height: int, mode: str) -> NDArray[np.float32]:
    """Decode a picture and fit it to a size, without keeping its proportions.

    Args:
        data: A PNG or JPEG file; any bytes.
        width: Wanted width in pixels.
        height: Wanted height in pixels.
        mode: `L` for grey, `RGB` for colour.

    Returns:
        Values from 0 to 1, shape (height, width, channels).

    Raises:
        RequestError: InvalidImage: not a picture, cut off, damaged, or with more than 25 million pixels.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise RequestError(
                ErrorCode.INVALID_IMAGE,
                f"an image must have at most {MAX_PIXELS} pixels, got {picture.width}x{picture.height}",
            )
        # A JPEG is decoded at the smallest scale that is still large enough: several times faster for a photograph.
        picture.draft(mode, (width, height))
        fitted = _fitted(picture, width, height, mode)
    except UnidentifiedImageError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be a {' or '.join(FORMATS)} file") from exc
    except Image.DecompressionBombError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"an image must have at most {MAX_PIXELS} pixels: {exc}") from exc
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as exc:
        # Pillow's decoders raise any of these on damaged files.
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be complete and undamaged: {exc}") from exc
    return fitted


def _fitted(picture: Image.Image, width: int, height: int, mode: str) -> NDArray[np.float32]:
    scale = 255.0
    if picture.mode.startswith("I"):
        # 16 bits a pixel: a conversion to 8 bits would clip instead of scale.
        picture, scale = picture.convert("F"), 65535.0
        if mode != "L":
            picture, scale = Image.fromarray(np.uint8(np.asarray(picture) * (255 / scale))).convert(mode), 255.0
    elif picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    picture.load()
    pixels = np.asarray(picture, dtype=np.float32).reshape(height, width, -1)
    unit: NDArray[np.float32] = np.clip(pixels / np.float32(scale), 0, 1)
    return unit
