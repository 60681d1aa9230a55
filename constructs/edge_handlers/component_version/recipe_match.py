"""Compares a recipe with the form that Greengrass keeps it in."""

from collections.abc import Mapping
from typing import Any


def differences(wanted: Any, kept: Any, path: str = "") -> list[str]:
    """List where a kept recipe says something else than the wanted one.

    Greengrass adds to a recipe (digests, defaults), so only what is wanted must be there; it spells the keys of a
    lifecycle and enumerations in another case.

    Args:
        wanted: The recipe, or a part of it.
        kept: The same part as Greengrass hands it back.
        path: Of the part.

    Returns:
        Paths such as `Manifests/0/Artifacts/0/Uri`; none for equal recipes.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(kept, Mapping):
            return [path or "its form"]
        known = {key.lower(): value for key, value in kept.items()}
        return [
            place
            for key, value in wanted.items()
            for place in differences(value, known.get(key.lower()), f"{path}/{key}".lstrip("/"))
        ]
    if isinstance(wanted, list):
        if not isinstance(kept, list) or len(wanted) != len(kept):
            return [path]
        pairs = enumerate(zip(wanted, kept, strict=True))
        return [place for at, (one, other) in pairs for place in differences(one, other, f"{path}/{at}")]
    if wanted is None or wanted == kept:
        return []
    same = isinstance(wanted, str) and isinstance(kept, str) and path.rpartition("/")[2] in ("Unarchive", "os")
    return [] if same and wanted.lower() == kept.lower() else [path]
