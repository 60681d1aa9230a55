"""From a picture that a stranger sends to a model's input."""

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edge_inference.messages import ErrorCode, RequestError

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
CHANNELS = {"L": 1, "RGB": 3}
ORDERS = ("RGB", "BGR")
LAYOUTS = ("NCHW", "NHWC")
BYTES = "uint8"
INPUT_DTYPES = ("float32", "float16", "float64", BYTES)


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
        picture, deep = Image.fromarray(np.uint8(np.asarray(picture) / 256)).convert(mode), False
    pixels = np.asarray(picture).reshape(height, width, -1)
    return np.clip(pixels / np.float32(65535), 0, 1, dtype=np.float32) if deep else pixels


def _box(picture: Image.Image, width: int, height: int, resize: int | None) -> tuple[float, float, float, float] | None:
    """The part of the picture that is scaled: all of it, or the centre that is left of a scaled shorter side."""
    if resize is None:
        return None
    scale = min(picture.size) / resize
    left, top = (picture.width - width * scale) / 2, (picture.height - height * scale) / 2
    return (left, top, left + width * scale, top + height * scale)


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Args:
        width: Pixels.
        height: Pixels.
        mode: `L` (grey) or `RGB`.
        mean: Subtracted, one value a channel of the model's order, on the scale 0 to 1.
        std: Divided by, one value a channel, not 0.
        order: Order of the channels that the model was trained with; no matter for grey pictures.
        layout: `NCHW`, channels first, or `NHWC`, channels last.
        resize: Size to which the picture's shorter side is scaled before its centre is cut out, as is the custom for
            ImageNet (256 for 224); None to scale both sides, without keeping proportions.
        dtype: Of the model's input; a `uint8` one takes pixels as they are, 0 to 255, so mean and std must be neutral.
    """

    width: int
    height: int
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str = "RGB"
    layout: str = "NCHW"
    resize: int | None = None
    dtype: str = "float32"
    _scale: NDArray[np.float32] = field(init=False, repr=False, compare=False)
    _offset: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"preprocessing width and height must be at least 1, got {self.width}x{self.height}")
        for name, value, known in (
            ("mode", self.mode, tuple(CHANNELS)),
            ("order", self.order, ORDERS),
            ("layout", self.layout, LAYOUTS),
            ("input dtype", self.dtype, INPUT_DTYPES),
        ):
            if value not in known:
                raise ValueError(f"preprocessing {name} must be one of {', '.join(known)}, got {value!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != CHANNELS[self.mode]:
                raise ValueError(f"preprocessing {name} must have {CHANNELS[self.mode]} values, got {len(values)}")
        if 0 in self.std:
            raise ValueError("preprocessing std must not be 0")
        if self.dtype == BYTES and (any(self.mean) or set(self.std) != {1}):
            raise ValueError(f"preprocessing mean and std must be left out for a {BYTES} input, which gets bytes")
        if self.resize is not None and self.resize < max(self.width, self.height):
            raise ValueError(
                f"preprocessing resize must be at least {max(self.width, self.height)}, the larger side that is cut "
                f"out, got {self.resize}"
            )
        # (p - mean) / std as one multiplication and one addition, and for bytes the division by 255 in the former.
        std = np.array(self.std, np.float64)
        object.__setattr__(self, "_scale", (1 / std).astype(np.float32))
        object.__setattr__(self, "_offset", (-np.array(self.mean, np.float64) / std).astype(np.float32))

    @property
    def channels(self) -> int:
        """Values a pixel."""
        return CHANNELS[self.mode]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the model's input for one picture, in its layout."""
        if self.layout == "NHWC":
            return (1, self.height, self.width, self.channels)
        return (1, self.channels, self.height, self.width)

    def apply(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[Any]:
        """Normalise one picture and bring it into the model's layout.

        Args:
            pixels: Bytes, or float32 from 0 to 1; shape (height, width, channels), red first.

        Returns:
            `dtype` of `shape`, contiguous.

        Raises:
            ValueError: The shape is another one.
        """
        wanted = (self.height, self.width, self.channels)
        if pixels.shape != wanted:
            raise ValueError(f"pixels must have the shape {wanted}, got {pixels.shape}")
        if self.dtype == BYTES:
            return self._bytes(pixels)
        scale = self._scale / np.float32(255) if pixels.dtype == np.uint8 else self._scale
        if self.order == "BGR":
            pixels = pixels[..., ::-1]
        result = np.empty(self.shape, np.float32)
        for channel in range(self.channels):
            # A channel at a time: the intermediate values stay in the processor's cache.
            plane = result[0, :, :, channel] if self.layout == "NHWC" else result[0, channel]
            np.multiply(pixels[..., channel], scale[channel], out=plane)
            plane += self._offset[channel]
        return result.astype(self.dtype, copy=False)

    def _bytes(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.uint8]:
        if pixels.dtype != np.uint8:
            pixels = np.rint(pixels * np.float32(255)).astype(np.uint8)
        if self.order == "BGR":
            pixels = pixels[..., ::-1]
        placed = pixels if self.layout == "NHWC" else pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(placed[np.newaxis])
