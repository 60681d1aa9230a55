"""From pixels to a model's input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANNELS = {"L": 1, "RGB": 3}


@dataclass(frozen=True)
class Preprocessing:
    """How a model wants its pictures.

    Args:
        width: Pixels.
        height: Pixels.
        mode: `L` (grey) or `RGB`.
        mean: Subtracted, one value a channel, on the scale 0 to 1.
        std: Divided by, one value a channel, not 0.
    """

    width: int
    height: int
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"preprocessing width and height must be at least 1, got {self.width}x{self.height}")
        if self.mode not in CHANNELS:
            raise ValueError(f"preprocessing mode must be one of {', '.join(CHANNELS)}, got {self.mode!r}")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != CHANNELS[self.mode]:
                raise ValueError(f"preprocessing {name} must have {CHANNELS[self.mode]} values, got {len(values)}")
        if 0 in self.std:
            raise ValueError("preprocessing std must not be 0")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the model's input: (1, channels, height, width)."""
        return (1, CHANNELS[self.mode], self.height, self.width)

    def apply(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise one picture and bring its channels first.

        Args:
            pixels: Values from 0 to 1, shape (height, width, channels).

        Returns:
            Shape (1, channels, height, width), contiguous.

        Raises:
            ValueError: The shape is another one.
        """
        if pixels.shape != (self.height, self.width, CHANNELS[self.mode]):
            wanted = (self.height, self.width, CHANNELS[self.mode])
            raise ValueError(f"pixels must have the shape {wanted}, got {pixels.shape}")
        normal = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1)[np.newaxis], dtype=np.float32)
