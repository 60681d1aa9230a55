"""The held-out samples that travel with a model, so that a device can be asked for a known answer."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_inference.declaration import ModelPackage, ModelPackageError


def load_samples(package: ModelPackage) -> NDArray[np.float32]:
    """Read a classifying package's samples.

    Args:
        package: A verified package; its samples file holds `images` of shape (count, height, width[, channels]), or
            for tables `rows` of shape (count, features).

    Returns:
        Shape (count, height, width, channels), 0 to 1, or (count, features); count is 0 for a package without samples.

    Raises:
        ModelPackageError: The file is not readable or has another shape.
    """
    pictures = package.preprocessing
    shape: tuple[int, ...] = (len(package.features),)
    if pictures is not None:
        shape = (pictures.height, pictures.width, pictures.channels)
    if package.samples is None:
        return np.empty((0, *shape), np.float32)
    file, maximum = package.samples
    values = _read(file, "images" if pictures is not None else "rows")
    if pictures is not None and values.ndim == 3:
        values = values[..., np.newaxis]
    if values.shape[1:] != shape:
        wanted = f"(count, {', '.join(map(str, shape))})"
        raise ModelPackageError(f"{file}: samples must have the shape {wanted}, got {values.shape}")
    return values / np.float32(maximum)


def _read(file: Path, name: str) -> NDArray[np.float32]:
    try:
        # Pickled arrays would run code of whoever made the file.
        with np.load(file, allow_pickle=False) as arrays:
            return np.asarray(arrays[name], dtype=np.float32)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as exc:
        raise ModelPackageError(f"{file} must hold an array named {name}: {exc}") from exc
