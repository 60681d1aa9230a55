"""What a stage's file may say of a function of Greengrass V1."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from config.section import Section, Slug

#: As AWS IoT takes it; exact, because access control names it.
Topic = Annotated[str, StringConstraints(pattern=r"^[^+#\s$][^+#\s]*$", max_length=256)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Handler(Section):
    """A Python function written for Greengrass V1, run unmodified as a component.

    Attributes:
        name: The function's name, part of its component's.
        folder: Folder below `edge_assets/handlers/functions`.
        handler: `module.function` in it.
        pinned: Whether it is long-lived; else it starts with an event and ends when idle.
        encoding: `json`: an event is the parsed message; `binary`: its bytes.
        subscribe: Exact topics in the cloud whose messages are its events.
        publish: Exact topics in the cloud that it may publish on.
        environment: Its environment variables.
        timeout_s: After so long an event's process is killed, s.
        idle_s: Without an event for so long a function that is not pinned ends, s.
        queue_size: Events that wait at most.
        memory_mb: What its context says, MB; not enforced.
    """

    name: Slug
    folder: Slug
    handler: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    pinned: bool = False
    encoding: Literal["json", "binary"] = "json"
    subscribe: tuple[Topic, ...] = ()
    publish: tuple[Topic, ...] = ()
    environment: dict[VariableName, str] = Field(default_factory=dict)
    timeout_s: int = Field(default=3, ge=1, le=3600)
    idle_s: int = Field(default=60, ge=1, le=86400)
    queue_size: int = Field(default=64, ge=1, le=10_000)
    memory_mb: int = Field(default=128, ge=1, le=65_536)
