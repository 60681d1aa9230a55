"""Component versions (semantic versioning 2.0) and the ranges that recipes use."""

from __future__ import annotations

import re
from typing import Any

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?")
_COMPARATOR = re.compile(r"(>=|<=|>|<|==|=)?\s*([^\s<>=]+)")
_TESTS: dict[str, Any] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


def is_version(text: str) -> bool:
    """Tell whether a text is a full semantic version."""
    return _VERSION.fullmatch(text) is not None


def satisfies(version: str, requirement: str) -> bool:
    """Tell whether a version is in a range of comparators that must all hold: `1.0.0`, `>=1.0.0 <2.0.0`.

    A range in another notation (`^1.2`, `1.x`, `||`) is answered with False: the caller then asks the cloud, which
    knows every notation.
    """
    key = _key(version)
    comparators = _COMPARATOR.findall(requirement.replace(",", " "))
    if key is None or not comparators:
        return False
    for operator, bound_text in comparators:
        bound = _key(bound_text)
        if bound is None:
            return False
        if not _TESTS.get(operator, lambda a, b: a == b)(key, bound):
            return False
    return True


def _key(version: str) -> tuple[Any, ...] | None:
    match = _VERSION.fullmatch(version)
    if not match:
        return None
    release = tuple(int(part) for part in match.groups()[:3])
    if match[4] is None:
        return (*release, 1)
    parts = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in match[4].split("."))
    return (*release, 0, parts)
