"""The handler component's configuration as a table of fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edge_component.settings import (
    FLAG,
    NAMED,
    ConfigurationError,
    accepted,
    choice,
    environment,
    read,
    setting,
    shown,
    text,
    topics,
    whole,
)

HANDLER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
THING_VARIABLE = "{iot:thingName}"
ENCODINGS = ("json", "binary")


@dataclass(frozen=True, kw_only=True)
class HandlerSettings:
    """How a function is run.

    Attributes:
        name: the function's name, for its context and the log
        handler: where the function is
        pinned: whether it lives as long as the component; else from an event until it is idle
        encoding: `json`: the event is the parsed message; `binary`: its bytes
        subscribe: topics in the cloud whose messages are its events
        publish: topics in the cloud that it may publish on
        local_subscribe: topics of the device whose messages are its events, too
        local_publish: topics of the device that it may publish on, too
        environment: its environment variables
        timeout_s: an event that takes longer ends its process
        idle_s: without an event for so long it ends, unless pinned
        queue_size: events that wait; one more is dropped
        memory_mb: what the context says; not enforced
    """

    name: str = setting("name", NAMED)
    handler: str = setting("handler", text("'module.function'", HANDLER))
    pinned: bool = setting("pinned", FLAG, False)
    encoding: str = setting("encoding", choice(*ENCODINGS), "json")
    subscribe: tuple[str, ...] = setting("subscribe", topics(), ())
    publish: tuple[str, ...] = setting("publish", topics(), ())
    local_subscribe: tuple[str, ...] = setting("localSubscribe", topics(), ())
    local_publish: tuple[str, ...] = setting("localPublish", topics(), ())
    environment: Mapping[str, str] = setting("environment", environment(), factory=dict[str, str])
    timeout_s: int = setting("timeoutSeconds", whole(1, 3600), 3)
    idle_s: int = setting("idleSeconds", whole(1, 86_400), 60)
    queue_size: int = setting("queueSize", whole(1, 10_000), 64)
    memory_mb: int = setting("memoryMb", whole(1, 65_536), 128)


def parse(value: object, thing: str = "") -> HandlerSettings:
    """Check a configuration.

    Args:
        value: What the device holds; keys that `HandlerSettings` does not know are not this module's business.
        thing: The device's name, for `{iot:thingName}` in topics: the nucleus fills it into the access control alone.

    Returns:
        The settings.

    Raises:
        ConfigurationError: Every mistake at once.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"the configuration must be an object, got {shown(value)}")
    mistakes: list[str] = []
    settings = read(HandlerSettings, value, mistakes)
    accepted(mistakes)
    return replace(
        settings,
        subscribe=_named(settings.subscribe, thing),
        publish=_named(settings.publish, thing),
        local_subscribe=_named(settings.local_subscribe, thing),
        local_publish=_named(settings.local_publish, thing),
    )


def _named(listed: tuple[str, ...], thing: str) -> tuple[str, ...]:
    return tuple(topic.replace(THING_VARIABLE, thing) for topic in listed)
