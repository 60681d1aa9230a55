"""Requests of the Greengrass API to the functions that answer them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from twin.cloud.greengrass.service_error import InvalidRequestError, ServiceError

logger = logging.getLogger("twin.greengrass")

BODY_LIMIT_BYTES = 1 << 20
"""Larger bodies are refused; the largest sensible one, a deployment, has at most 31 KiB."""


@dataclass(frozen=True)
class Call:
    """A request after routing.

    Args:
        names: What the path names, percent-decoded, in order.
        query: Query parameters, the first value of each.
        query_lists: Query parameters with all their values.
        body: As received.
    """

    names: tuple[str, ...]
    query: dict[str, str]
    query_lists: dict[str, list[str]]
    body: bytes


Answer = tuple[int, dict[str, Any] | None]
"""Status, JSON document; members that are None are left out."""

Route = tuple[str, str, Callable[[Call], Awaitable[Answer]]]
"""Method, pattern of the decoded path, function."""

JSON_HEADERS = {"Content-Type": "application/json"}


async def answer(
    routes: list[Route], method: str, path: str, body: bytes, query: dict[str, list[str]]
) -> tuple[int, dict[str, str], bytes]:
    """Answer a request by the first route that matches, errors as AWS's REST-JSON protocol has them."""
    try:
        if len(body) > BODY_LIMIT_BYTES:
            raise InvalidRequestError([("body", f"must be at most {BODY_LIMIT_BYTES} bytes, got {len(body)}")])
        for verb, pattern, function in routes:
            match = re.fullmatch(pattern, unquote(path))
            if match and verb == method:
                values = {key: value if isinstance(value, list) else [value] for key, value in query.items()}
                first = {key: value[0] for key, value in values.items() if value}
                status, document = await function(Call(match.groups(), first, values, body))
                return status, dict(JSON_HEADERS), _encoded(document)
        raise InvalidRequestError([("", f"{method} {path} is no operation that the twin serves")], "UNKNOWN_OPERATION")
    except ServiceError as error:
        logger.info("%s %s refused: %s", method, path, error)
        headers = {**JSON_HEADERS, "x-amzn-ErrorType": error.code}
        return error.status, headers, _encoded(error.document())


def _encoded(document: dict[str, Any] | None) -> bytes:
    return b"" if document is None else json.dumps(without_none(document)).encode()


def without_none(value: Any) -> Any:
    """The same structure without members that are None, as AWS's answers leave them out."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value
