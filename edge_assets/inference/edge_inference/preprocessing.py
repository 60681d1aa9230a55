"""From pixels to a model's input."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHANNELS = {"L": 1, "RGB": 3}
ORDERS = ("RGB", "BGR")
LAYOUTS = ("NCHW", "NHWC")
BYTES = "uint8"
INPUT_DTYPES = ("float32", "float16", "float64", BYTES)


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
