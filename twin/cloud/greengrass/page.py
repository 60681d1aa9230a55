"""Pages of the list operations."""

from __future__ import annotations

import base64
from typing import Any

from twin.cloud.greengrass.service_error import InvalidRequestError

PAGE_LIMIT = 100
"""The service model's largest `maxResults`, and its default here."""


def page(member: str, items: list[Any], query: dict[str, str]) -> dict[str, Any]:
    """The page of `items` that `maxResults` and `nextToken` ask for.

    Args:
        member: The answer's list member.
        items: Everything there is, in a stable order.
        query: The request's query parameters.

    Returns:
        `{member: […]}`, with `nextToken` where more follows.

    Raises:
        InvalidRequestError: If `maxResults` is not in 1..100 or the token is none of ours.
    """
    size_text = query.get("maxResults") or str(PAGE_LIMIT)
    if not size_text.isdigit() or not 1 <= int(size_text) <= PAGE_LIMIT:
        raise InvalidRequestError([("maxResults", f"must be from 1 to {PAGE_LIMIT}, got {size_text!r}")])
    start, size = _position(member, query.get("nextToken")), int(size_text)
    answer: dict[str, Any] = {member: items[start : start + size]}
    if start + size < len(items):
        answer["nextToken"] = base64.urlsafe_b64encode(f"{member}:{start + size}".encode()).decode()
    return answer


def _position(member: str, token: str | None) -> int:
    if not token:
        return 0
    try:
        name, _, position = base64.urlsafe_b64decode(token).decode().partition(":")
        if name == member and position.isdigit():
            return int(position)
    except ValueError:
        pass
    raise InvalidRequestError([("nextToken", f"must be the token of the page before, got {token!r}")])
