"""Typed access to a manifest's JSON: what is missing is a KeyError, what has another type a TypeError with its key."""

from collections.abc import Mapping


def mapping(parent: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Read an object."""
    value = parent[key]
    if not isinstance(value, Mapping):
        raise TypeError(f"{key} must be an object, got {type(value).__name__}")
    return value


def array(parent: Mapping[str, object], key: str) -> list[object]:
    """Read a list."""
    value = parent[key]
    if not isinstance(value, list):
        raise TypeError(f"{key} must be a list, got {type(value).__name__}")
    return value


def texts(parent: Mapping[str, object], key: str) -> tuple[str, ...]:
    """Read a list of texts; whatever is in it is taken as its text, nothing where the key is missing."""
    return tuple(str(value) for value in array(parent, key)) if key in parent else ()


def whole_number(value: object) -> int:
    """Read a size."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a size must be a whole number, got {value!r}")
    return value


def number(value: object) -> float:
    """Read a factor."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"a factor must be a number, got {value!r}")
    return float(value)


def known(parent: Mapping[str, object], key: str, names: tuple[str, ...]) -> None:
    """Refuse what nobody reads: a misspelt key would be without effect."""
    if unknown := sorted(set(parent) - set(names)):
        raise ValueError(f"{key} must hold {', '.join(names)}, got {', '.join(unknown)}")
