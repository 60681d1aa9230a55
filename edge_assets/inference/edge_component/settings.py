"""Settings as tables of fields: key, kind and default of each; checked as a whole before any is used.

A settings class is a frozen dataclass whose fields are made by `setting`; `read` checks a configuration by it. What a
field means is among the attributes of its docstring, which stays here when the code travels to devices.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

TOPIC_BYTES = 256
PATH_BYTES = 1024
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Settings = TypeVar("Settings")


class ConfigurationError(Exception):
    """A configuration that is not accepted; one line a mistake, each with key, rule and value."""


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Args:
        said: For people, in a table.
        check: Gives the value as the component holds it; a wrong one adds lines, each with key, rule and value.
    """

    said: str
    check: Callable[[str, Any, list[str]], Any]


@dataclass(frozen=True)
class Setting:
    """What a settings class's field is in a configuration.

    Args:
        key: Its key there.
        kind: What its value may be.
        required: Whether it may not be left out.
    """

    key: str
    kind: Kind
    required: bool


def setting(key: str, kind: Kind, default: Any = MISSING, factory: Any = MISSING) -> Any:
    """Declare a field of a settings class; see `Setting`.

    Args:
        key: Its key.
        kind: What its value may be.
        default: Its value where the key is left out; without this and `factory` the key is required.
        factory: Makes the default, where that is an object.
    """
    about = {"setting": Setting(key, kind, required=default is factory is MISSING)}
    if factory is not MISSING:
        return field(default_factory=factory, metadata=about)
    return field(default=default, metadata=about)


def known(settings: type) -> dict[str, Setting]:
    """List what a settings class reads: field to setting, in their order."""
    return {each.name: each.metadata["setting"] for each in fields(settings) if each.metadata}


def read(
    settings: type[Settings], given: Mapping[str, Any], mistakes: list[str], where: str = "", **others: Any
) -> Settings:
    """Check an object of a configuration.

    Args:
        settings: A settings class.
        given: The object; keys that the class does not know are not looked at.
        mistakes: Gets a line for each mistake.
        where: What comes before a key in such a line.
        others: Fields of the class that are no settings.

    Returns:
        The settings, complete with defaults; with mistakes they are of no use.
    """
    for name, about in known(settings).items():
        if about.key in given or about.required:
            others[name] = about.kind.check(where + about.key, given.get(about.key), mistakes)
    return settings(**others)


def accepted(mistakes: list[str]) -> None:
    """Refuse a configuration that has mistakes.

    Raises:
        ConfigurationError: Every one at once.
    """
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))


def shown(value: object) -> str:
    """Show a value in a message, short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _simple(said: str, rule: str, fits: Callable[[Any], bool]) -> Kind:
    def check(where: str, value: Any, mistakes: list[str]) -> Any:
        if not fits(value):
            mistakes.append(f"{where} must be {rule}, got {shown(value)}")
        return value

    return Kind(said, check)


def whole(least: int, largest: int) -> Kind:
    """A whole number; a device may store every number as a floating-point one."""
    rule = f"a whole number from {least} to {largest}"

    def check(where: str, value: Any, mistakes: list[str]) -> Any:
        number = int(value) if isinstance(value, float) and value.is_integer() else value
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= largest:
            mistakes.append(f"{where} must be {rule}, got {shown(value)}")
        return number

    return Kind(rule, check)


def number(least: float, largest: float) -> Kind:
    """A number, also one written as a text."""
    rule = f"a number from {least:g} to {largest:g}"

    def check(where: str, value: Any, mistakes: list[str]) -> float:
        try:
            parsed = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            parsed = math.nan
        if not least <= parsed <= largest:
            mistakes.append(f"{where} must be {rule}, got {shown(value)}")
        return parsed

    return Kind(rule, check)


def text(rule: str, pattern: re.Pattern[str]) -> Kind:
    """A text of a form."""
    return _simple(rule, rule, lambda value: isinstance(value, str) and bool(pattern.fullmatch(value)))


def choice(*names: str) -> Kind:
    """One of some texts."""
    rule = f"one of {', '.join(names)}"
    return _simple(rule, rule, lambda value: isinstance(value, str) and value in names)


def path(limit_bytes: int, *, empty: bool) -> Kind:
    """A path of a limited length; or nothing, where it may be empty."""

    def check(where: str, value: Any, mistakes: list[str]) -> Any:
        fits = isinstance(value, str) and "\0" not in value and (empty or bool(value))
        length = len(value.encode(errors="replace")) if isinstance(value, str) else 0
        if empty and not (fits and length <= limit_bytes):
            mistakes.append(f"{where} must be a path of at most {limit_bytes} bytes, got {shown(value)}")
        elif not fits:
            mistakes.append(f"{where} must be a path, got {shown(value)}")
        elif length > limit_bytes:
            mistakes.append(f"{where} must have at most {limit_bytes} bytes, got {length}")
        return value

    return Kind(f"a path of at most {limit_bytes} bytes", check)


def topic(*, empty: bool = False) -> Kind:
    """An exact MQTT topic; or nothing, where it may be empty."""

    def check(where: str, value: Any, mistakes: list[str]) -> Any:
        if empty and value == "":
            return value
        if not _is_sized(value):
            mistakes.append(f"{where} must be a topic of 1 to {TOPIC_BYTES} bytes, got {shown(value)}")
        elif _has_wildcards(value):
            mistakes.append(f"{where} must be an exact topic, without wildcards, got {shown(value)}")
        return value

    return Kind("an exact topic", check)


def topics() -> Kind:
    """A list of exact MQTT topics."""

    def check(where: str, value: Any, mistakes: list[str]) -> tuple[str, ...]:
        if not isinstance(value, list):
            mistakes.append(f"{where} must be a list of topics, got {shown(value)}")
            return ()
        for each in value:
            if not _is_sized(each):
                mistakes.append(f"{where}: a topic must have 1 to {TOPIC_BYTES} bytes, got {shown(each)}")
            elif _has_wildcards(each):
                mistakes.append(f"{where}: a topic must be exact, without wildcards, got {shown(each)}")
        return tuple(value)

    return Kind("a list of exact topics", check)


def environment() -> Kind:
    """Environment variables."""

    def check(where: str, value: Any, mistakes: list[str]) -> Mapping[str, str]:
        if not isinstance(value, Mapping):
            mistakes.append(f"{where} must be an object, got {shown(value)}")
            return {}
        for name, each in value.items():
            if not VARIABLE.fullmatch(str(name)) or not isinstance(each, str) or "\0" in each:
                mistakes.append(f"{where}.{name} must be a variable's name and a text, got {shown(each)}")
        return {str(name): each for name, each in value.items()}

    return Kind("variables' names and texts", check)


def _is_sized(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value.encode(errors="replace")) <= TOPIC_BYTES


def _has_wildcards(value: str) -> bool:
    return any(character in value for character in "+#\0")


FLAG = _simple("true or false", "true or false", lambda value: isinstance(value, bool))
NAMED = text("letters, digits, '_' and '-', at most 63", NAME)
