"""The held-out pictures that travel with a model, so that a device can be asked for a known answer."""

import zipfile

import numpy as np
from numpy.typing import NDArray

from edge_inference.model_package import ModelPackage, ModelPackageError


def load_samples(package: ModelPackage) -> NDArray[np.float32]:
    """Read a package's samples.

    Args:
        package: A verified package; its samples file holds `images` of shape (count, height, width[, channels]).

    Returns:
        Shape (count, height, width, channels), 0 to 1; count is 0 for a package without samples.

    Raises:
        ModelPackageError: The file is not readable or has another shape.
    """
    _, channels, height, width = package.preprocessing.shape
    if package.samples is None:
        return np.empty((0, height, width, channels), np.float32)
    file, maximum = package.samples
    try:
        # Pickled arrays would run code of whoever made the file.
        with np.load(file, allow_pickle=False) as arrays:
            images = np.asarray(arrays["images"], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as exc:
        raise ModelPackageError(f"{file} must hold an array named images: {exc}") from exc
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[1:] != (height, width, channels):
        raise ModelPackageError(f"{file}: images must have the shape (count, {height}, {width}), got {images.shape}")
    return images / np.float32(maximum)
