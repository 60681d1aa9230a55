"""Checks a request against the service model that botocore ships: what SageMaker itself refuses before it looks."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import botocore.session


@functools.cache
def _service_model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def mistakes(service: str, operation: str, request: dict[str, Any]) -> list[str]:
    """Everything in a request that breaks the model: names, required members, types, patterns, enums, ranges.

    Args:
        service: botocore's name of the service.
        operation: For instance `CreateCompilationJob`.
        request: The parsed body.

    Returns:
        One sentence for each mistake, in AWS's wording; empty if there is none.
    """
    shape = _service_model(service).operation_model(operation).input_shape
    return list(_check(shape, request, "")) if shape else []


def _check(shape: Any, value: Any, path: str) -> Iterator[str]:
    here = path or "request"
    if shape.type_name == "structure":
        if not isinstance(value, dict):
            yield f"Value at '{here}' failed to satisfy constraint: Member must be a structure"
            return
        for name in shape.required_members:
            if value.get(name) is None:
                yield f"Value null at '{_member(path, name)}' failed to satisfy constraint: Member must not be null"
        for name, member in value.items():
            if name not in shape.members:
                yield f"Value at '{_member(path, name)}' failed to satisfy constraint: Member is unknown"
            elif member is not None:
                yield from _check(shape.members[name], member, _member(path, name))
    elif shape.type_name == "list":
        if not isinstance(value, list):
            yield f"Value at '{here}' failed to satisfy constraint: Member must be a list"
            return
        yield from _range(shape, len(value), here, "length", value)
        for index, item in enumerate(value, start=1):
            yield from _check(shape.member, item, f"{path}.{index}.member")
    elif shape.type_name == "string":
        yield from _check_string(shape, value, here)
    elif shape.type_name in ("integer", "long"):
        if isinstance(value, bool) or not isinstance(value, int):
            yield f"Value '{value}' at '{here}' failed to satisfy constraint: Member must be a whole number"
        else:
            yield from _range(shape, value, here, "value", value)


def _check_string(shape: Any, value: Any, path: str) -> Iterator[str]:
    if not isinstance(value, str):
        yield f"Value '{value}' at '{path}' failed to satisfy constraint: Member must be a string"
        return
    if shape.enum and value not in shape.enum:
        allowed = ", ".join(shape.enum)
        yield (
            f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy enum value set: [{allowed}]"
        )
    yield from _range(shape, len(value), path, "length", value)
    pattern = shape.metadata.get("pattern")
    if pattern and not re.fullmatch(pattern, value, re.DOTALL):
        yield (
            f"Value '{value}' at '{path}' failed to satisfy constraint: Member must satisfy regular expression "
            f"pattern: {pattern}"
        )


def _range(shape: Any, size: int, path: str, what: str, value: Any) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        yield (
            f"Value '{value}' at '{path}' failed to satisfy constraint: Member must have {what} greater than or "
            f"equal to {least}"
        )
    if most is not None and size > most:
        yield (
            f"Value '{str(value)[:80]}' at '{path}' failed to satisfy constraint: Member must have {what} less than "
            f"or equal to {most}"
        )


def _member(path: str, name: str) -> str:
    camel = name[:1].lower() + name[1:]
    return f"{path}.{camel}" if path else camel
