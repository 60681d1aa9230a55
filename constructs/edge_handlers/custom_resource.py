"""A custom resource's event as `answering` hands it to a handler, and the contract on its properties.

CloudFormation turns every scalar property into a string ("true", "900"), and an event carries `ResponseURL`, a
pre-signed address that lets anybody answer for the resource: it is dropped here and never logged.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, Protocol, Self, get_type_hints


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

    def number(self, name: str, *, minimum: float) -> float:
        """Return a required number, which arrives as a string.

        Raises:
            ValueError: It is missing, not a finite number, or below `minimum`.
        """
        value = self.text(name)
        try:
            found = float(value)
        except ValueError:
            found = math.nan
        if not minimum <= found < math.inf:
            raise ValueError(f"{self.where}.{name} must be a number of at least {minimum:g}, got {value!r}")
        return found

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a required list of strings, in order and without repetitions.

        Raises:
            ValueError: It is missing, not a list, or holds something other than non-empty strings.
        """
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f"{self.where}.{name} must be a list of non-empty strings, got {value!r}")
        return tuple(dict.fromkeys(value))

    def mapping(self, name: str) -> dict[str, str]:
        """Return a required object of scalars.

        Raises:
            ValueError: It is missing or not an object.
        """
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            raise ValueError(f"{self.where}.{name} must be a mapping, got {type(value).__name__}")
        return {str(key): str(item) for key, item in value.items()}

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
class Key:
    """How one field of a contract travels: the property's name, and both directions.

    Attributes:
        name: Of the property in the template.
        read: Takes the properties and the name; what it refuses it names.
        write: Makes the property's value of the field's, at synth.
    """

    name: str
    read: Callable[[Properties, str], Any] = Properties.text
    write: Callable[[Any], Any] = lambda value: value


def whole(name: str, *, minimum: int) -> Key:
    """A whole number, a string on the way."""
    return Key(name, lambda properties, name: properties.integer(name, minimum=minimum), str)


def number(name: str, *, minimum: float) -> Key:
    """A number, a string on the way."""
    return Key(name, lambda properties, name: properties.number(name, minimum=minimum), str)


def texts(name: str) -> Key:
    """A list of strings, a tuple here."""
    return Key(name, Properties.texts, list)


def json_object(name: str, *, sort_keys: bool = False) -> Key:
    """An object, JSON text on the way: CloudFormation would turn its numbers and truths into strings."""
    return Key(name, Properties.json_object, lambda value: json.dumps(dict(value), sort_keys=sort_keys))


def mapping(name: str) -> Key:
    """Strings by name, an object on the way, too."""
    return Key(name, Properties.mapping, dict)


def prefix(name: str, end: str = "/") -> Key:
    """A text that others are composed with, without what it may end with."""
    return Key(name, lambda properties, name: properties.text(name).rstrip(end))


class Contract:
    """A custom resource's properties, as a frozen dataclass that its construct writes and its handler reads.

    A field is `name: Annotated[type, Key("Property")]`, or another contract, whose properties are on the same level.
    One with a default may be absent; one that is its default is not written. At synth a value may be a token, so
    nothing is checked before `of` reads it.
    """

    #: CloudFormation's type of the resource.
    TYPE: ClassVar[str]

    @classmethod
    def of(cls, properties: Properties) -> Self:
        """Read and check the properties.

        Raises:
            ValueError: One is missing or breaks a rule; the text names it.
        """
        values: dict[str, Any] = {}
        for name, part, default in _parts(cls):
            if not isinstance(part, Key):
                values[name] = part.of(properties)
            elif default is MISSING or properties.values.get(part.name) not in (None, ""):
                values[name] = part.read(properties, part.name)
        contract = cls(**values)
        contract.check(properties)
        return contract

    def check(self, properties: Properties) -> None:
        """Refuse what is wrong between properties; nothing unless a contract says so.

        Raises:
            ValueError: A rule is broken; the text names the property.
        """

    @classmethod
    def key(cls, field_name: str) -> str:
        """The property of a field, for errors."""
        return next(part.name for name, part, _ in _parts(cls) if name == field_name and isinstance(part, Key))

    def to_properties(self) -> dict[str, Any]:
        """The properties of the template."""
        properties: dict[str, Any] = {}
        for name, part, default in _parts(type(self)):
            value = getattr(self, name)
            if not isinstance(part, Key):
                properties |= value.to_properties()
            elif default is MISSING or value != default:
                properties[part.name] = part.write(value)
        return properties


def _parts(contract: type[Contract]) -> Iterator[tuple[str, Key | type[Contract], Any]]:
    """Field, its key or the contract that it holds, and its default, MISSING where it must be given."""
    hints = get_type_hints(contract, include_extras=True)
    for each in fields(contract):  # type: ignore[arg-type] # every contract is a dataclass
        hint = hints[each.name]
        default = each.default if each.default_factory is MISSING else each.default_factory()
        yield each.name, hint if isinstance(hint, type) else hint.__metadata__[0], default


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


class Named(Protocol):
    """A contract whose name follows from its content."""

    @property
    def name(self) -> str:
        """What a Create answers with, of `content_name`."""


def begun_name(request: Request, read: Callable[[Properties], Named]) -> str:
    """Name what a Delete is about, also where its Create was cancelled before it could answer with the name.

    CloudFormation makes up an id for such a resource, and sends the properties that the Create had.

    Args:
        request: The Delete.
        read: The contract's `of`.

    Returns:
        The resource's id where a Create gave it, else the name of the properties; the id where they make none.
    """
    try:
        name = read(request.properties).name
    except ValueError:
        return request.known_id
    ours = re.compile(rf"{re.escape(name[:-12])}[0-9a-f]{{12}}(-\d+)?")
    return request.known_id if ours.fullmatch(request.known_id) else name


def content_name(prefix: str, content: list[Any]) -> str:
    """Name what follows from its content: the same content has the same name, whoever makes it and how often.

    Args:
        prefix: What the name starts with.
        content: JSON values, all that decides what is made.

    Returns:
        `<prefix>-<12 hexadecimal digits>`.
    """
    return f"{prefix}-{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


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
