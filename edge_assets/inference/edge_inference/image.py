"""Decoding pictures that strangers send."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_inference.request import ErrorCode, RequestError

FORMATS = ("PNG", "JPEG")
#: A small file can unpack to gigabytes; 25 million pixels are more than an industrial camera sends.
MAX_PIXELS = 25_000_000
ORIENTATION = 0x0112
#: How a picture is turned upright, by EXIF's orientation; 1 is upright, other numbers mean nothing.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: From here on a turn swaps the sides.
LYING = 5

Pixels = NDArray[np.uint8] | NDArray[np.float32]


def decode(data: bytes, width: int, height: int, mode: str, resize: int | None = None) -> Pixels:
    """Decode a picture, turn it upright as its EXIF block says, and fit it to a size.

    Of several frames the first is taken, and transparency is left out of account.

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
        orientation = _orientation(picture)
        if orientation >= LYING:
            width, height = height, width
        # A JPEG is decoded at the smallest scale that is still large enough: several times faster for a photograph.
        picture.draft(mode, (resize or width, resize or height))
        # All of the file at once: the decoder need not stop and find its place again every 64 KiB.
        picture.decodermaxblock = max(len(data), 1)
        fitted = _fitted(picture, width, height, mode, resize, UPRIGHT.get(orientation))
    except UnidentifiedImageError as exc:
        got = f"{len(data)} bytes that begin with {data[:12]!r}" if data else "nothing"
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be a {' or '.join(FORMATS)} file, got {got}") from exc
    except Image.DecompressionBombError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"an image must have at most {MAX_PIXELS} pixels: {exc}") from exc
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError) as exc:
        # Pillow's decoders raise any of these on damaged files.
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be complete and undamaged: {exc}") from exc
    return fitted


def _orientation(picture: Image.Image) -> int:
    # Cameras of machines write no EXIF block, and then there is none to look into.
    if "exif" not in picture.info:
        return 1
    try:
        found = picture.getexif().get(ORIENTATION)
    except Exception:  # noqa: BLE001 - a damaged block says nothing, the picture beside it may be whole
        return 1
    return found if found in UPRIGHT else 1


def _fitted(
    picture: Image.Image, width: int, height: int, mode: str, resize: int | None, turn: Image.Transpose | None
) -> Pixels:
    deep = picture.mode.startswith("I")
    if deep:
        # 16 bits a pixel: a conversion to 8 bits would clip instead of scale.
        picture = picture.convert("F")
    elif picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, _box(picture, width, height, resize))
    picture.load()
    if turn is not None:
        picture = picture.transpose(turn)
        width, height = picture.size
    if deep and mode != "L":
        picture, deep = Image.fromarray(np.uint8(np.asarray(picture) * (255 / 65535))).convert(mode), False
    pixels = np.asarray(picture).reshape(height, width, -1)
    return np.clip(pixels / np.float32(65535), 0, 1, dtype=np.float32) if deep else pixels


def _box(picture: Image.Image, width: int, height: int, resize: int | None) -> tuple[float, float, float, float] | None:
    """The part of the picture that is scaled: all of it, or the centre that is left of a scaled shorter side."""
    if resize is None:
        return None
    scale = min(picture.size) / resize
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    return (left, top, left + width * scale, top + height * scale)
