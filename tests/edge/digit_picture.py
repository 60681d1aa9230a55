"""A digit of the data set as a picture."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.train_digits import MAXIMUM


def digit_png(image: NDArray[np.generic]) -> bytes:
    """Encode a digit as clients send it, the inverse of what the model's pre-processing does.

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
    file = io.BytesIO()
    Image.fromarray(np.rint(values * (255 / MAXIMUM)).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()
