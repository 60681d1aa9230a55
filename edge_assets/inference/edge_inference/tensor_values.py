"""From a client's nested lists to tensors, without losing or guessing anything on the way."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NUMBERS: tuple[str, set[type]] = ("numbers", {int, float})
#: What JSON must hold for NumPy's kinds of types; all others are numbers.
_WANTED: dict[str, tuple[str, set[type]]] = {"b": ("true or false", {bool}), "O": ("texts", {str})}


def zeros(shape: list[int], dtype: str) -> NDArray[Any]:
    """Make a tensor of zeros, or of empty texts."""
    return np.full(shape, "", object) if dtype == "string" else np.zeros(shape, dtype)


def tensor(values: object, dtype: str) -> NDArray[Any]:
    """Make a tensor that holds exactly what a client sent; floating-point numbers are rounded to the type's precision.

    Args:
        values: Nested lists of numbers, texts or booleans, as JSON has them.
        dtype: The declared type.

    Returns:
        An array of that type, in the shape of the lists.

    Raises:
        ValueError: The lists are ragged, hold something else (5 is no text, "5" and true are no numbers), or a number
            has no place in the type.
    """
    # As Python's objects first: NumPy would read texts as numbers, cut fractions off, and make all texts equally long.
    found = np.asarray(values, object)
    wanted = np.dtype(object if dtype == "string" else dtype)
    what, types = _WANTED.get(wanted.kind, _NUMBERS)
    if wrong := set(map(type, found.flat)) - types:
        named = ", ".join(sorted(each.__name__ for each in wrong))
        raise ValueError(f"expected {what} in lists of equal length, got {named}")
    try:
        with np.errstate(all="ignore"):
            converted: NDArray[Any] = found.astype(wanted)
            lost = np.isinf(converted) & np.isfinite(found.astype(float)) if wanted.kind == "f" else converted != found
    except (OverflowError, ValueError) as exc:
        raise ValueError(f"a number has no place in it: {exc}") from exc
    if np.any(lost):
        raise ValueError(f"{found[lost].flat[0]!r} has no place in it")
    return converted
