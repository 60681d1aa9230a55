"""What a stage's file may say of a function of Greengrass V1."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from config.section import Section, Slug

#: As AWS IoT takes it; exact, because access control and IoT policies name it: `*`, `?`, `$` and braces mean something
#: there. Of AWS's own topics only a shadow's are of use to a function.
_SHADOW = r"\$aws/things/[\w:-]+/shadow/(name/[\w:-]+/)?(get|update|delete)(/(accepted|rejected|documents|delta))?"
_TOPIC = re.compile(rf"({_SHADOW}|[^+#*?${{}}\"\\\s]+)", re.ASCII)
#: Stands for the device's name in a topic.
THING = "{thing}"
#: Characters of the longest thing name that a stage may list.
_LONGEST_THING = 124


def _exact(topic: str) -> str:
    longest = topic.replace(THING, "x" * _LONGEST_THING)
    if not _TOPIC.fullmatch(longest) or len(longest.encode()) > 256:
        raise ValueError(
            'a topic must be exact, with at most 256 bytes, without wildcards, spaces and any of +#*?${}"\\, or one '
            f"of a shadow ($aws/things/<thing>/shadow/update …), got {topic[:100]!r}: declare each topic of a V1 "
            f"subscription; {THING} in it stands for the device's name"
        )
    return topic


Topic = Annotated[str, AfterValidator(_exact)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Handler(Section):
    """A Python function written for Greengrass V1, run unmodified as a component.

    Attributes:
        name: The function's name, part of its component's.
        folder: Folder below `edge_assets/handlers/functions`.
        handler: `module.function` in it.
        pinned: Whether it is long-lived; else it starts with an event and ends when idle.
        encoding: `json`: an event is the parsed message; `binary`: its bytes.
        subscribe: Exact topics in the cloud whose messages are its events; `{thing}` in one is the device's name. Short
            for routes from the cloud.
        publish: Exact topics in the cloud that it may publish on; `{thing}` in one is the device's name. Short for
            routes to the cloud.
        environment: Its environment variables.
        timeout_s: After so long an event's process is killed, s.
        idle_s: Without an event for so long a function that is not pinned ends, s.
        queue_size: Events that wait at most.
        memory_mb: What its context says, MB; not enforced.
        provided: Top-level modules that the function imports and the device brings, from outside of what is deployed.
        aws_credentials: Whether boto3 in it gets the stage's token exchange role, as it got the group's role on V1.
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
    provided: tuple[VariableName, ...] = ()
    aws_credentials: bool = False
