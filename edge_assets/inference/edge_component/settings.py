"""Rules for single values of the configuration: each wrong value adds one line, with key, rule and value."""

import math

TOPIC_BYTES = 256
PATH_BYTES = 1024


class ConfigurationError(Exception):
    """A configuration that is not accepted; one line a mistake, each with key, rule and value."""


def topic(where: str, value: object, mistakes: list[str]) -> str:
    """An exact MQTT topic."""
    if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > TOPIC_BYTES:
        mistakes.append(f"{where} must be a topic of 1 to {TOPIC_BYTES} bytes, got {shown(value)}")
    elif any(character in value for character in "+#\0"):
        mistakes.append(f"{where} must be an exact topic, without wildcards, got {shown(value)}")
    return str(value)


def whole_number(where: str, value: object, limits: tuple[int, int, int], mistakes: list[str]) -> int:
    """A whole number; the limits are default, least and largest."""
    default, least, largest = limits
    # A device may store every number as a floating-point one.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= largest:
        mistakes.append(f"{where} must be a whole number from {least} to {largest}, got {shown(value)}")
        return default
    return whole


def number(where: str, value: object, limits: tuple[float, float, float], mistakes: list[str]) -> float:
    """A number, also one written as a text; the limits are default, least and largest."""
    default, least, largest = limits
    try:
        parsed = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type] # that is asked here
    except (TypeError, ValueError, OverflowError):
        parsed = math.nan
    if not least <= parsed <= largest:
        mistakes.append(f"{where} must be a number from {least:g} to {largest:g}, got {shown(value)}")
        return default
    return parsed


def path(where: str, value: object, mistakes: list[str]) -> str:
    """A path, or nothing."""
    if not isinstance(value, str) or "\0" in value or len(value.encode(errors="replace")) > PATH_BYTES:
        mistakes.append(f"{where} must be a path of at most {PATH_BYTES} bytes, got {shown(value)}")
        return ""
    return value


def choice(where: str, value: object, known: tuple[str, ...], mistakes: list[str]) -> str:
    """One of some texts."""
    if not isinstance(value, str) or value not in known:
        mistakes.append(f"{where} must be one of {', '.join(known)}, got {shown(value)}")
        return known[0]
    return value


def shown(value: object) -> str:
    """Show a value in a message, short."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
