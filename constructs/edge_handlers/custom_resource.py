"""A custom resource's event, as the CDK Provider framework hands it to a handler, parsed once.

CloudFormation turns every scalar property into a string ("true", "900"), and an event carries `ResponseURL`, a
pre-signed address that lets anybody answer for the resource: it is dropped here and never logged.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class RequestType(StrEnum):
    """What CloudFormation asks of the resource."""

    CREATE = "Create"
    UPDATE = "Update"
    DELETE = "Delete"


@dataclass(frozen=True)
class Properties:
    """The properties of one event.

    Args:
        values: As CloudFormation sent them; an empty string counts as absent.
        where: What an error calls them.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    where: str = "ResourceProperties"

    def text(self, name: str) -> str:
        """Return a required string.

        Raises:
            ValueError: It is missing, empty or not a scalar.
        """
        value = self.optional_text(name)
        if value is None:
            raise ValueError(f"{self.where}.{name} is required, got nothing; set it in the construct that owns it")
        return value

    def optional_text(self, name: str) -> str | None:
        """Return a string, or None where it is absent or empty.

        Raises:
            ValueError: It is a list or a mapping.
        """
        value = self.values.get(name)
        if value is None or value == "":
            return None
        if isinstance(value, list | dict):
            raise ValueError(f"{self.where}.{name} must be a string, got {type(value).__name__}")
        return str(value)

    def integer(self, name: str, *, minimum: int) -> int:
        """Return a required whole number, which arrives as a string.

        Raises:
            ValueError: It is missing, not a number, or below `minimum`.
        """
        value = self.text(name)
        if not re.fullmatch(r"-?\d{1,18}", value) or int(value) < minimum:
            raise ValueError(f"{self.where}.{name} must be a whole number of at least {minimum}, got {value!r}")
        return int(value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a required list of strings, in order and without repetitions.

        Raises:
            ValueError: It is missing, not a list, or holds something other than non-empty strings.
        """
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f"{self.where}.{name} must be a list of non-empty strings, got {value!r}")
        return tuple(dict.fromkeys(value))

    def json_object(self, name: str) -> dict[str, Any]:
        """Return a required JSON object, which arrives as text.

        Raises:
            ValueError: It is missing, not JSON, or not an object.
        """
        text = self.text(name)
        try:
            value = json.loads(text)
        except json.JSONDecodeError as exc:
            raise ValueError(f"{self.where}.{name} must be a JSON object, got {text[:80]!r}: {exc}") from exc
        if not isinstance(value, dict):
            raise ValueError(f"{self.where}.{name} must be a JSON object, got {text[:80]!r}")
        return value


@dataclass(frozen=True)
class Request:
    """One event.

    Args:
        type: Create, Update or Delete.
        physical_id: The resource's id so far; None before a Create has answered.
        properties: The wanted properties (on Delete: the last ones).
        old_properties: The properties before an Update; empty otherwise. They may come from an older release
            of the handler: never require anything of them.
    """

    type: RequestType
    physical_id: str | None
    properties: Properties
    old_properties: Properties

    @property
    def known_id(self) -> str:
        """The physical id of a resource that exists.

        Raises:
            ValueError: The event has none.
        """
        if not self.physical_id:
            raise ValueError(f"PhysicalResourceId is required in a {self.type} event, got nothing")
        return self.physical_id


def parse(event: Mapping[str, Any]) -> Request:
    """Read the event of an `on_event` or `is_complete` handler.

    Raises:
        ValueError: RequestType is not Create, Update or Delete, or the properties are not a mapping.
    """
    kind = event.get("RequestType")
    if kind not in list(RequestType):
        raise ValueError(f"RequestType must be Create, Update or Delete, got {kind!r}")
    properties = event.get("ResourceProperties") or {}
    if not isinstance(properties, Mapping):
        raise ValueError(f"ResourceProperties must be a mapping, got {type(properties).__name__}")
    old = event.get("OldResourceProperties") or {}
    return Request(
        type=RequestType(kind),
        physical_id=event.get("PhysicalResourceId") or None,
        properties=Properties(properties),
        old_properties=Properties(old if isinstance(old, Mapping) else {}, "OldResourceProperties"),
    )
