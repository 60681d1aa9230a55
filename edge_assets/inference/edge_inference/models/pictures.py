"""From a picture that a stranger sends to a model's input."""

import io
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
#: How a picture of other proportions becomes an input: both sides scaled, or the picture whole, with a margin.
FITS = STRETCH, LETTERBOX = ("stretch", "letterbox")
#: The grey of the margin that YOLO's training code uses.
PAD = 114


class Decoded(NamedTuple):
    """A picture in the size of a model's input, of shape (height, width, channels), and its own size, upright."""

    pixels: Pixels
    size: tuple[int, int]


class Placement(NamedTuple):
    """Where a picture lies in a model's input: a place of the input is `left + x * across`, `top + y * down`."""

    left: float
    top: float
    across: float
    down: float

    def to_picture(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring boxes of the input back to the picture.

        Args:
            corners: Left, top, right, bottom in pixels of the input; shape (count, 4).

        Returns:
            The same in pixels of the picture.
        """
        offset, scale = (self.left, self.top) * 2, (self.across, self.down) * 2
        return (corners - offset) / scale


def _letterbox(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a picture that keeps its proportions in the middle of an input."""
    scale = min(width / size[0], height / size[1])
    across, down = (min(max(round(side * scale), 1), most) for side, most in zip(size, (width, height), strict=True))
    return ((width - across) // 2, (height - down) // 2, across, down)


def decode(
    data: bytes, width: int, height: int, mode: str, resize: int | None = None, pad: int | None = None
) -> Decoded:
    """Decode a picture, turn it upright as its EXIF block says, and fit it to a size.

    Of several frames the first is taken, and transparency is left out of account.

    Args:
        data: A PNG or JPEG file; any bytes.
        width: Wanted width in pixels.
        height: Wanted height in pixels.
        mode: `L` for grey, `RGB` for colour.
        resize: Size of the picture's shorter side before the centre of the wanted size is cut out; by default both
            sides are scaled, without keeping proportions.
        pad: Grey, 0 to 255, of the margin around the whole picture with its proportions; by default there is none.

    Returns:
        Bytes, or for pictures with 16 bits a pixel float32 from 0 to 1, and the picture's own size.

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
        lies = orientation >= LYING
        size = picture.size[::-1] if lies else picture.size
        left, top, across, down = (0, 0, width, height) if pad is None else _letterbox(size, width, height)
        if lies:
            across, down = down, across
        # A JPEG is decoded at the smallest scale that is still large enough: several times faster for a photograph.
        draft = picture.draft(mode, (resize or across, resize or down))
        # All of the file at once: the decoder need not stop and find its place again every 64 KiB.
        picture.decodermaxblock = max(len(data), 1)
        # What was scaled down may end within its last pixel.
        box = _box(picture, across, down, resize) or (draft[1] if draft else None)
        pixels = _fitted(picture, across, down, mode, box, UPRIGHT.get(orientation))
        if pad is not None and pixels.shape[:2] != (height, width):
            pixels = _padded(pixels, width, height, left, top, pad)
    except UnidentifiedImageError as exc:
        got = f"{len(data)} bytes that begin with {data[:12]!r}" if data else "nothing"
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be a {' or '.join(FORMATS)} file, got {got}") from exc
    except Image.DecompressionBombError as exc:
        raise RequestError(ErrorCode.INVALID_IMAGE, f"an image must have at most {MAX_PIXELS} pixels: {exc}") from exc
    except (OSError, ArithmeticError, AssertionError, EOFError, LookupError, SyntaxError, TypeError, ValueError) as exc:
        # Pillow's decoders raise any of these on damaged files.
        raise RequestError(ErrorCode.INVALID_IMAGE, f"image must be complete and undamaged: {exc}") from exc
    return Decoded(pixels, size)


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
    picture: Image.Image,
    width: int,
    height: int,
    mode: str,
    box: tuple[float, float, float, float] | None,
    turn: Image.Transpose | None,
) -> Pixels:
    deep = picture.mode.startswith("I")
    if deep:
        # 16 bits a pixel: a conversion to 8 bits would clip instead of scale.
        picture = picture.convert("F")
    elif picture.mode != mode:
        picture = picture.convert(mode)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, box)
    picture.load()
    if turn is not None:
        picture = picture.transpose(turn)
        width, height = picture.size
    if deep and mode != "L":
        picture, deep = Image.fromarray(np.uint8(np.asarray(picture) / 256)).convert(mode), False
    if deep:
        values: Pixels = np.clip(np.asarray(picture) / np.float32(65535), 0, 1, dtype=np.float32)
        return values.reshape(height, width, -1)
    # A channel behind the other, as models want them: what comes next reads each by itself.
    planes = b"".join([picture.tobytes("raw", channel) for channel in picture.getbands()])
    return np.frombuffer(planes, np.uint8).reshape(-1, height, width).transpose(1, 2, 0)


def _padded(pixels: Pixels, width: int, height: int, left: int, top: int, pad: int) -> Pixels:
    """Put a picture into a canvas of one grey."""
    down, across, channels = pixels.shape
    grey = pad if pixels.dtype == np.uint8 else pad / 255
    canvas: Pixels = np.full((height, width, channels), grey, pixels.dtype)
    canvas[top : top + down, left : left + across] = pixels
    return canvas


def _box(picture: Image.Image, width: int, height: int, resize: int | None) -> tuple[float, float, float, float] | None:
    """The part of the picture that is scaled: all of it, or the centre that is left of a scaled shorter side."""
    if resize is None:
        return None
    scale = min(picture.size) / resize
    # Rounding must not lead out of the picture: Pillow refuses that.
    across, down = min(width * scale, picture.width), min(height * scale, picture.height)
    left, top = (picture.width - across) / 2, (picture.height - down) / 2
    return (left, top, min(left + across, picture.width), min(top + down, picture.height))


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
            ImageNet (256 for 224); None to fit all of it.
        dtype: Of the model's input; a `uint8` one takes pixels as they are, 0 to 255, so mean and std must be neutral.
        fit: `stretch` scales both sides, `letterbox` keeps the proportions and adds a margin.
        pad: Grey of that margin, 0 to 255.
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
    fit: str = STRETCH
    pad: int = PAD
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
            ("fit", self.fit, FITS),
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
        if not 0 <= self.pad <= 255:
            raise ValueError(f"preprocessing pad must be a grey from 0 to 255, got {self.pad}")
        if self.resize is not None and self.fit == LETTERBOX:
            raise ValueError(f"preprocessing resize must be left out with fit {LETTERBOX}, got {self.resize}")
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

    def decode(self, data: bytes) -> Decoded:
        """Decode a picture and fit it to the input; see `decode`."""
        pad = self.pad if self.fit == LETTERBOX else None
        return decode(data, self.width, self.height, self.mode, self.resize, pad)

    def placement(self, size: tuple[int, int]) -> Placement:
        """Say where a picture comes to lie in the input.

        Args:
            size: Of the picture, upright: width and height.
        """
        if self.resize is not None:
            scale = self.resize / min(size)
            return Placement((self.width - size[0] * scale) / 2, (self.height - size[1] * scale) / 2, scale, scale)
        left, top, across, down = 0, 0, self.width, self.height
        if self.fit == LETTERBOX:
            left, top, across, down = _letterbox(size, self.width, self.height)
        return Placement(left, top, across / size[0], down / size[1])

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
