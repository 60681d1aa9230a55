"""The handler component's configuration: checked as a whole before any of it is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edge_component.settings import ConfigurationError

HANDLER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TOPIC_BYTES = 256
ENCODINGS = ("json", "binary")

#: Whole numbers: key to field, default, least and largest value.
NUMBERS = {
    "timeoutSeconds": ("timeout_s", 3, 1, 3600),
    "idleSeconds": ("idle_s", 60, 1, 86_400),
    "queueSize": ("queue_size", 64, 1, 10_000),
    "memoryMb": ("memory_mb", 128, 1, 65_536),
}


@dataclass(frozen=True)
class HandlerSettings:
    """How a function is run.

    Args:
        name: The function's name, for its context and the log.
        handler: `module.function`.
        pinned: Whether it lives as long as the component; else it starts with an event and ends when idle.
        encoding: `json`: the event is the parsed message; `binary`: its bytes.
        subscribe: Topics whose messages are its events.
        publish: Topics that it may publish on.
        environment: Its environment variables.
        timeout_s: An event that takes longer ends with the function's process.
        idle_s: Without an event for so long a function that is not pinned ends.
        queue_size: Events that wait at most; one more is dropped.
        memory_mb: What the context says; not enforced.
    """

    name: str
    handler: str
    pinned: bool
    encoding: str
    subscribe: tuple[str, ...]
    publish: tuple[str, ...]
    environment: Mapping[str, str]
    timeout_s: int
    idle_s: int
    queue_size: int
    memory_mb: int


def parse(value: object) -> HandlerSettings:
    """Check a configuration.

    Args:
        value: What the device holds: `{"name", "handler", "pinned"?, "encoding"?, "subscribe"?, "publish"?,
            "environment"?, "timeoutSeconds"?, "idleSeconds"?, "queueSize"?, "memoryMb"?}`; other keys are not this
            module's business.

    Returns:
        The settings.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"the configuration must be an object, got {_shown(value)}")
    mistakes: list[str] = []
    name, handler = value.get("name"), value.get("handler")
    pinned, encoding = value.get("pinned", False), value.get("encoding", "json")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        mistakes.append(f"name must be letters, digits, '_' and '-', at most 63, got {_shown(name)}")
    if not (isinstance(handler, str) and HANDLER.fullmatch(handler)):
        mistakes.append(f"handler must be 'module.function', got {_shown(handler)}")
    if not isinstance(pinned, bool):
        mistakes.append(f"pinned must be true or false, got {_shown(pinned)}")
    if encoding not in ENCODINGS:
        mistakes.append(f"encoding must be one of {', '.join(ENCODINGS)}, got {_shown(encoding)}")
    settings = HandlerSettings(
        name=str(name),
        handler=str(handler),
        pinned=pinned is True,
        encoding=str(encoding),
        subscribe=_topics("subscribe", value, mistakes),
        publish=_topics("publish", value, mistakes),
        environment=_environment(value.get("environment", {}), mistakes),
        **{
            field: _number(key, value.get(key, default), least, largest, mistakes)
            for key, (field, default, least, largest) in NUMBERS.items()
        },
    )
    if mistakes:
        raise ConfigurationError("\n".join(mistakes))
    return settings


def _topics(key: str, value: Mapping[str, object], mistakes: list[str]) -> tuple[str, ...]:
    topics = value.get(key, [])
    if not isinstance(topics, list):
        mistakes.append(f"{key} must be a list of topics, got {_shown(topics)}")
        return ()
    for topic in topics:
        if not isinstance(topic, str) or not 0 < len(topic.encode(errors="replace")) <= TOPIC_BYTES:
            mistakes.append(f"{key}: a topic must have 1 to {TOPIC_BYTES} bytes, got {_shown(topic)}")
        elif any(character in topic for character in "+#\0"):
            mistakes.append(f"{key}: a topic must be exact, without wildcards, got {_shown(topic)}")
    return tuple(map(str, topics))


def _environment(value: object, mistakes: list[str]) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        mistakes.append(f"environment must be an object, got {_shown(value)}")
        return {}
    for name, text in value.items():
        if not VARIABLE.fullmatch(str(name)) or not isinstance(text, str) or "\0" in text:
            mistakes.append(f"environment.{name} must be a variable's name and a text, got {_shown(text)}")
    return {str(name): str(text) for name, text in value.items()}


def _number(key: str, value: object, least: int, largest: int, mistakes: list[str]) -> int:
    # A device may store every number as a floating-point one.
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    if not isinstance(whole, int) or isinstance(whole, bool) or not least <= whole <= largest:
        mistakes.append(f"{key} must be a whole number from {least} to {largest}, got {_shown(value)}")
        return least
    return whole


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
