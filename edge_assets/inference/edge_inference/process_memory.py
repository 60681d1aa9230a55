"""Keeps the process small, and the garbage collector away from its requests."""

import ctypes
import gc
from collections.abc import Callable
from functools import cache


@cache
def freeze() -> None:
    """Take all that exists now out of the garbage collector's sight, once, before the first model is loaded.

    A full collection over the hundred thousand objects of the imported modules would hold a request up for 10 ms and
    more.
    Later calls do nothing: a model must stay visible, to be collected when it is replaced.
    """
    gc.freeze()


def trim() -> None:
    """Give back the memory that loading a model took for a moment; without glibc nothing happens."""
    release = _malloc_trim()
    if release is not None:
        release(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
