"""Requests held against AWS's own models of its services, which botocore carries."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from ministack.core import responses

from twin.cloud.aws.protocol import InvalidRequestError
from twin.cloud.ministack.patches import patch, require

_HEAD = 8 << 10
_METADATA = re.compile(r'\{\s*(?:"version":"2.0",\s*)?"metadata":\s*')

require("core.responses._BOTOCORE_NAME", why="models' metadata are read by botocore's names", signature="dict")


@patch(
    "core.responses._service_model",
    why="an answer's content type takes a model's metadata alone: a whole model takes up to 80 ms, in which nothing "
    "is served, and a deploy meets a dozen of them",
    signature="(service)",
)
@cache
def _metadata(load: Callable[[str], Any], service: str) -> Any:
    """The beginning of a service's newest model; all of it where that is not as expected."""
    folders = Path(Loader.BUILTIN_DATA_PATH) / responses._BOTOCORE_NAME.get(service, service)
    try:
        with gzip.open(max(folders.glob("*/service-2.json.gz")), "rt", encoding="utf-8") as file:
            text = file.read(_HEAD)
        if found := _METADATA.match(text):
            return SimpleNamespace(metadata=json.JSONDecoder().raw_decode(text, found.end())[0])
    except (OSError, ValueError):
        pass
    return load(service)


@cache
def _model(service: str) -> ServiceModel:
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def read_request(service: str, operation: str, body: bytes) -> dict[str, Any]:
    """Parse the JSON body of a REST-JSON operation and check it; members that the model does not have are let pass.

    Args:
        service: botocore's name of the service.
        operation: For instance `CreateDeployment`.
        body: As received.

    Raises:
        InvalidRequestError: With every mistake.
    """
    try:
        request = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError([("body", f"must be JSON: {error}")], "CANNOT_PARSE") from error
    if not isinstance(request, dict):
        raise InvalidRequestError([("body", f"must be an object, got {type(request).__name__}")], "CANNOT_PARSE")
    check_request(service, operation, request, unknown=True)
    return request


def check_request(service: str, operation: str, request: Any, *, unknown: bool = False) -> None:
    """Refuse a request that breaks the model; arguments as of `mistakes`.

    Raises:
        InvalidRequestError: With every mistake.
    """
    found = mistakes(service, operation, request, unknown=unknown)
    if found:
        plural = "s" if len(found) > 1 else ""
        raise InvalidRequestError([("", f"{len(found)} validation error{plural} detected: " + "; ".join(found))])


def mistakes(service: str, operation: str, request: Any, *, unknown: bool = False) -> list[str]:
    """Everything in a request that breaks the model: names, required members, types, patterns, enums, ranges.

    Args:
        service: botocore's name of the service.
        operation: For instance `CreateCompilationJob`.
        request: The parsed body; members of the path and the query string are not looked for.
        unknown: Let members pass that the model does not have.

    Returns:
        One sentence for each mistake, in AWS's wording; empty if there is none.
    """
    shape = _model(service).operation_model(operation).input_shape
    return list(_check(shape, request, "", unknown)) if shape else []


def _check(shape: Shape, value: Any, path: str, unknown: bool) -> Iterator[str]:
    here = path or "request"
    match shape.type_name, value:
        case "structure", dict():
            # Greengrass writes `roleArn` as RoleArn, and what came with its first version alike.
            on_wire = {name: member.serialization.get("name", name) for name, member in shape.members.items()}
            members = {on_wire[name]: member for name, member in shape.members.items()}
            for name in shape.required_members:
                if value.get(on_wire[name]) is None and not shape.members[name].serialization.get("location"):
                    yield f"Value null at '{_member(path, name)}' failed to satisfy constraint: Member must not be null"
            for name, member in value.items():
                if name in members:
                    if member is not None:
                        yield from _check(members[name], member, _member(path, name), unknown)
                elif not unknown:
                    yield f"Value at '{_member(path, name)}' failed to satisfy constraint: Member is unknown"
        case "map", dict():
            yield from _range(shape, len(value), here, "length", value)
            for key, item in value.items():
                yield from _check(shape.value, item, f"{path}.{key}", unknown)
        case "list", list():
            yield from _range(shape, len(value), here, "length", value)
            for index, item in enumerate(value, start=1):
                yield from _check(shape.member, item, f"{path}.{index}.member", unknown)
        case "string", str():
            yield from _check_string(shape, value, here)
        case (("integer" | "long"), int()) if not isinstance(value, bool):
            yield from _range(shape, value, here, "value", value)
        case (("double" | "float"), int() | float()) if not isinstance(value, bool):
            yield from _range(shape, value, here, "value", value)
        case ("blob", str()) | ("boolean", bool()) | ("timestamp", _):
            pass
        case kind, _ if kind in _NOUNS:
            shown = "" if isinstance(value, dict | list) or kind in ("structure", "map", "list") else f" '{value}'"
            yield f"Value{shown} at '{here}' failed to satisfy constraint: Member must be {_NOUNS[kind]}"


_NOUNS = {
    "structure": "a structure",
    "map": "a map",
    "list": "a list",
    "string": "a string",
    "blob": "a base64 string",
    "boolean": "true or false",
    "integer": "a whole number",
    "long": "a whole number",
    "float": "a number",
    "double": "a number",
}


def _check_string(shape: Any, value: str, path: str) -> Iterator[str]:
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


def _range(shape: Shape, size: float, path: str, what: str, value: Any) -> Iterator[str]:
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


def request_from_properties(service: str, operation: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The request of an operation that a CloudFormation resource's properties stand for.

    Args:
        service: botocore's name of the service.
        operation: For instance `CreateDeployment`.
        properties: Resolved properties; keys in PascalCase, numbers and booleans possibly as strings.

    Returns:
        The members that the operation has, in its case and types; map keys are kept as they are.

    Raises:
        InvalidRequestError: If a value cannot be of its member's type.
    """
    return dict(_converted(_model(service).operation_model(operation).input_shape, properties, "Properties"))


def _converted(shape: Shape, value: Any, path: str) -> Any:
    match shape.type_name, value:
        case "structure", dict():
            members = {name[0].upper() + name[1:]: name for name in shape.members}
            return {
                members[key]: _converted(shape.members[members[key]], item, f"{path}.{key}")
                for key, item in value.items()
                if key in members
            }
        case "map", dict():
            return {key: _converted(shape.value, item, f"{path}.{key}") for key, item in value.items()}
        case "list", list():
            return [_converted(shape.member, item, f"{path}[{i}]") for i, item in enumerate(value)]
        case ("integer" | "long" | "double" | "float") as kind, str() | int() | float():
            try:
                return int(value) if kind in ("integer", "long") else float(value)
            except ValueError as error:
                raise InvalidRequestError([(path, f"must be a number, got {value!r}")]) from error
        case "boolean", str():
            return value.lower() == "true"
        case "string", int() | float():
            return str(value)
    return value
