"""The SDK's decorator for tests without a core."""

from collections.abc import Callable
from typing import Any


def mock(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a call of the core: as on a core, nothing is replaced.

    Args:
        func: The call.

    Returns:
        The same.
    """
    return func
