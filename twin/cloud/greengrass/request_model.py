"""Requests held against AWS's own model of the Greengrass V2 API, which botocore carries."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

from twin.cloud.greengrass.service_error import InvalidRequestError, Mistake


@cache
def _model() -> ServiceModel:
    return ServiceModel(Loader().load_service_model("greengrassv2", "service-2"), "greengrassv2")


def read_request(operation: str, body: bytes) -> dict[str, Any]:
    """Parse the JSON body of an operation and check types, required members, lengths, ranges and enumerations.

    Raises:
        InvalidRequestError: With every mistake, each with the path of its member.
    """
    try:
        request = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError([("body", f"must be JSON: {error}")], "CANNOT_PARSE") from error
    if not isinstance(request, dict):
        raise InvalidRequestError([("body", f"must be an object, got {type(request).__name__}")], "CANNOT_PARSE")
    shape = _model().operation_model(operation).input_shape
    # Members of the path and the query string are not in the body.
    located = {name: "x" for name, member in shape.members.items() if member.serialization.get("location")}
    report = ParamValidator().validate({**located, **request}, shape)
    mistakes: list[Mistake] = [("", line) for line in report.generate_report().splitlines()]
    mistakes += _enumeration_mistakes(shape, request, "")
    if mistakes:
        raise InvalidRequestError(mistakes)
    return request


def _enumeration_mistakes(shape: Shape, value: Any, path: str) -> list[Mistake]:
    match shape.type_name, value:
        case "structure", dict():
            children = [
                (shape.members[k], v, f"{path}.{k}" if path else k) for k, v in value.items() if k in shape.members
            ]
        case "map", dict():
            children = [(shape.value, v, f"{path}.{k}") for k, v in value.items()]
        case "list", list():
            children = [(shape.member, v, f"{path}[{i}]") for i, v in enumerate(value)]
        case "string", str() if shape.enum and value not in shape.enum:
            return [(path, f"must be one of {', '.join(shape.enum)}, got {value!r}")]
        case _:
            return []
    return [mistake for child in children for mistake in _enumeration_mistakes(*child)]


def request_from_properties(operation: str, properties: dict[str, Any]) -> dict[str, Any]:
    """The request of an operation that a CloudFormation resource's properties stand for.

    Args:
        operation: For instance `CreateDeployment`.
        properties: Resolved properties; keys in PascalCase, numbers and booleans possibly as strings.

    Returns:
        The members that the operation has, in its case and types; map keys are kept as they are.

    Raises:
        InvalidRequestError: If a value cannot be of its member's type.
    """
    request = _converted(_model().operation_model(operation).input_shape, properties, "Properties")
    return dict(request)


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
