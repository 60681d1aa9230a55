"""AWS's protocols on the gateway: errors, REST-JSON routes, JSON 1.1 operations, pages of lists."""

from __future__ import annotations

import base64
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

logger = logging.getLogger("twin.aws")

BODY_LIMIT_BYTES = 1 << 20
"""Larger bodies are refused; the largest sensible one, a Greengrass deployment, has at most 31 KiB."""

Document = dict[str, Any]

JSON_1_1 = "application/x-amz-json-1.1"

Response = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""

Mistake = tuple[str, str]
"""(field, what is wrong with it and how to mend it)."""


class ServiceError(Exception):
    """A request that is refused; answered with `status` and `code`.

    Args:
        message: Shown to the caller: name, rule, value, fix.
        code: The error's name on the wire; by default the class's.
        status: HTTP status; by default the class's.
        **details: Further members of the answer that the service model requires.
    """

    code = "InternalServerException"
    status = 500

    def __init__(self, message: str, *, code: str = "", status: int = 0, **details: Any) -> None:
        super().__init__(message)
        self.code, self.status = code or self.code, status or self.status
        self.details = details

    def document(self) -> Document:
        """The answer's JSON body."""
        return {"message": str(self), **self.details}


class InvalidRequestError(ServiceError):
    """The request breaks a rule of the API; every broken rule is listed."""

    code = "ValidationException"
    status = 400

    def __init__(self, mistakes: Sequence[Mistake], reason: str = "FIELD_VALIDATION_FAILED") -> None:
        fields = [{"name": field, "message": message} for field, message in mistakes]
        super().__init__(
            "; ".join(f"{field} {message}" if field else message for field, message in mistakes),
            reason=reason,
            fields=fields,
        )


class NotFoundError(ServiceError):
    """The request names something that does not exist."""

    code = "ResourceNotFoundException"
    status = 404

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"{kind} must exist, got {name}", resourceId=name, resourceType=kind)


class ConflictError(ServiceError):
    """The request does not fit the state of what it names."""

    code = "ConflictException"
    status = 409

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message, resourceId=name, resourceType=kind)


class AccessDeniedError(ServiceError):
    """The caller may not do this."""

    code = "AccessDeniedException"
    status = 403


class RequestError(ServiceError):
    """A request that a JSON 1.1 service refuses: all with 400, and a code that says why."""

    status = 400

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message, code=code)


def find(records: Mapping[str, Any], name: str, kind: str) -> Document:
    """The record with a name.

    Raises:
        NotFoundError: If there is none; it names the kind.
    """
    record: Document | None = records.get(name)
    if record is None:
        raise NotFoundError(kind, name)
    return record


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


Answer = tuple[int, Document | None]
"""Status, JSON document; members that are None are left out."""

Route = tuple[str, str, Callable[[Call], Awaitable[Answer]]]
"""Method, pattern of the decoded path, function."""

Operation = Callable[[Document], Document]
"""Request to answer, of JSON 1.1."""


def json_response(status: int, document: Document | None, *, content_type: str = "application/json") -> Response:
    """An answer with a JSON body, or with none; members that are None are left out."""
    body = b"" if document is None else json.dumps(without_none(document)).encode()
    return status, {"Content-Type": content_type}, body


def error_response(error: ServiceError) -> Response:
    """The answer that an error of a REST-JSON service stands for."""
    status, headers, body = json_response(error.status, error.document())
    return status, {**headers, "x-amzn-ErrorType": error.code}, body


def json_1_1_error(error: ServiceError) -> Response:
    """The answer that an error of a JSON 1.1 service stands for: always 400, the code in the body as well."""
    status, headers, body = json_response(400, {"__type": error.code, "message": str(error)}, content_type=JSON_1_1)
    return status, {**headers, "x-amzn-errortype": error.code}, body


def without_none(value: Any) -> Any:
    """The same structure without members that are None, as AWS's answers leave them out."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value] if isinstance(value, list) else value


async def answer_rest(
    routes: Sequence[Route], method: str, path: str, body: bytes, query: Mapping[str, Any]
) -> Response:
    """Answer a REST-JSON request by the first route that matches."""
    try:
        if len(body) > BODY_LIMIT_BYTES:
            raise InvalidRequestError([("body", f"must be at most {BODY_LIMIT_BYTES} bytes, got {len(body)}")])
        for verb, pattern, function in routes:
            match = re.fullmatch(pattern, unquote(path))
            if match and verb == method:
                values = {key: value if isinstance(value, list) else [value] for key, value in query.items()}
                first = {key: value[0] for key, value in values.items() if value}
                return json_response(*await function(Call(match.groups(), first, values, body)))
        raise InvalidRequestError([("", f"{method} {path} is no operation that the twin serves")], "UNKNOWN_OPERATION")
    except ServiceError as error:
        logger.info("%s %s refused: %s", method, path, error)
        return error_response(error)


def read_operation(operations: Mapping[str, Any], headers: Mapping[str, str], body: bytes) -> tuple[str, Any]:
    """The operation that a JSON 1.1 request is for, and its parsed body.

    Raises:
        RequestError: If the twin does not serve it, or the body is no JSON.
    """
    operation = headers.get("x-amz-target", "").rpartition(".")[2]
    if operation not in operations:
        served = ", ".join(operations)
        raise RequestError("UnknownOperationException", f"the twin serves {served}, got {operation!r}")
    try:
        return operation, json.loads(body or b"{}")
    except (ValueError, RecursionError) as exc:
        raise RequestError("SerializationException", f"body must be JSON: {exc}") from exc


def page(
    member: str, items: Sequence[Any], query: Mapping[str, Any], *, most: int = 100, usual: int | None = None
) -> Document:
    """The page of a list that `maxResults` and `nextToken` ask for, or JSON 1.1's `MaxResults` and `NextToken`.

    Args:
        member: The answer's list member.
        items: Everything there is, in a stable order.
        query: The request's query parameters, or its body.
        most: Largest page, as the service model has it.
        usual: Size of a page if none is asked for; by default the largest.

    Returns:
        `{member: […]}`, with a token for the next page where more follows.

    Raises:
        InvalidRequestError: If the size is not in 1..`most`, or the token is not one of this list.
    """
    capital = member[:1].isupper()
    size_name, token_name = ("MaxResults", "NextToken") if capital else ("maxResults", "nextToken")
    size = str(query.get(size_name) or usual or most)
    if not size.isdigit() or not 1 <= int(size) <= most:
        raise InvalidRequestError([(size_name, f"must be from 1 to {most}, got {size!r}")])
    start = _position(member, token_name, query.get(token_name))
    end = start + int(size)
    answer: Document = {member: list(items[start:end])}
    if end < len(items):
        answer[token_name] = base64.urlsafe_b64encode(f"{member}:{end}".encode()).decode()
    return answer


def _position(member: str, token_name: str, token: str | None) -> int:
    if not token:
        return 0
    try:
        name, _, position = base64.urlsafe_b64decode(token).decode().partition(":")
        if name == member and position.isdigit():
            return int(position)
    except ValueError:
        pass
    raise InvalidRequestError([(token_name, f"must be the token of the page before, got {token!r}")])
