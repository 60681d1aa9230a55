"""Decoding pictures that strangers send."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_inference.request import ErrorCode, RequestError

FORMATS = ("PNG", "JPEG")
#: A small file can unpack to gigabytes; 25 million pixels are more than an industrial camera sends.
MAX_PIXELS = 25_000_000


Pixels = NDArray[np.uint8] | NDArray[np.float32]


def decode(data: bytes, width: int, height: int, mode: str, resize: int | None = None) -> Pixels:
    """Decode a picture and fit it to a size.

    Args:
        data: A PNG or JPEG file; any bytes.
        width: Wanted width in pixels.
        height: Wanted height in pixels.
        mode: `L` for grey, `RGB` for colour.
        resize: Size of the picture's shorter side before the centre of the wanted size is cut out; by default both
            sides are scaled, without keeping proportions.

    Returns:
        Bytes, or for pictures with 16 bits a pixel float32 from 0 to 1; shape (height, width, channels).

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
        picture.draft(mode, (resize or width, resize or height))
        # All of the file at once: the decoder need not stop and find its place again every 64 KiB.
        picture.decodermaxblock = max(len(data), 1)
        fitted = _fitted(picture, width, height, mode, resize)
    except UnidentifiedImageError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be a {' or '.join(FORMATS)} file") from exc
    except Image.DecompressionBombError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"an image must have at most {MAX_PIXELS} pixels: {exc}") from exc
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as exc:
        # Pillow's decoders raise any of these on damaged files.
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be complete and undamaged: {exc}") from exc
    return fitted


def _fitted(picture: Image.Image, width: int, height: int, mode: str, resize: int | None) -> Pixels:
    deep = picture.mode.startswith("I")
    if deep:
        # 16 bits a pixel: a conversion to 8 bits would clip instead of scale.
        picture = picture.convert("F")
        if mode != "L":
            picture, deep = Image.fromarray(np.uint8(np.asarray(picture) * (255 / 65535))).convert(mode), False
    elif picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, _box(picture, width, height, resize))
    picture.load()
    pixels = np.asarray(picture).reshape(height, width, -1)
    return np.clip(pixels / np.float32(65535), 0, 1, dtype=np.float32) if deep else pixels


def _box(picture: Image.Image, width: int, height: int, resize: int | None) -> tuple[float, float, float, float] | None:
    """The part of the picture that is scaled: all of it, or the centre that is left of a scaled shorter side."""
    if resize is None:
        return None
    scale = min(picture.size) / resize
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    return (left, top, left + width * scale, top + height * scale)
