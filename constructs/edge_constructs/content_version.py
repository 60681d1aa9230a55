"""A component's version from its content: an unchanged component keeps its version, a changed one gets another."""

import hashlib

_RANGE = 1_000_000


def content_version(*parts: str | bytes) -> str:
    """Derive a version that Greengrass accepts.

    Args:
        parts: All that makes the component what it is: recipe, artifact digests, settings; order matters.

    Returns:
        `1.<0 to 999999>.<0 to 999999>`, so that `>=1.0.0 <2.0.0` covers every one.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("a content version needs at least one part, got none")
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # With its length, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(data).to_bytes(8, "big") + data)
    number = int.from_bytes(digest.digest(), "big")
    return f"1.{number % _RANGE}.{number // _RANGE % _RANGE}"
