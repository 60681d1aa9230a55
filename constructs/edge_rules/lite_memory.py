"""How much room an object takes in nucleus lite, whose buffers are fixed.

Sizes from its source: `gg/object.h` of aws-greengrass-component-sdk.
"""

from collections.abc import Mapping
from typing import Any

_ITEM_BYTES = 11
_PAIR_BYTES = 21


def subobjects(node: Any) -> int:
    """Count as `GG_MAX_OBJECT_SUBOBJECTS` does: two for each key with its value, one for each item of a list.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return 2 * len(node) + sum(subobjects(child) for child in node.values())
    if isinstance(node, list):
        return len(node) + sum(subobjects(child) for child in node)
    return 0


def arena_bytes(node: Any) -> int:
    """Memory that a copy takes: texts, and the pairs and items that point at them.

    Args:
        node: Parsed JSON.
    """
    if isinstance(node, Mapping):
        return sum(len(str(key).encode()) + _PAIR_BYTES + arena_bytes(child) for key, child in node.items())
    if isinstance(node, list):
        return sum(_ITEM_BYTES + arena_bytes(child) for child in node)
    return len(node.encode()) if isinstance(node, str) else 0


def levels(node: Any) -> int:
    """Depth: 1 for a value, 2 for a list or an object of values.

    Args:
        node: Parsed JSON.
    """
    children = list(node.values()) if isinstance(node, Mapping) else node if isinstance(node, list) else None
    return 1 if children is None else 1 + max((levels(child) for child in children), default=0)
