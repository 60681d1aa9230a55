"""What simulated devices and their components do, as data: `up --simulated N --profile FILE`.

Everything that is left to chance is drawn from the seed, the device's name and the thing that is asked: the same seed
gives the same devices the same lot, in whatever order things happen.
"""

from __future__ import annotations

import fnmatch
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from twin import TwinError
from twin.core_device.components.recipe import Recipe, is_range, satisfies
from twin.core_device.dialect import DIALECTS


def _span(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"must be [least, most], got {list(value)}")
    return value


_LONGEST_S = 10 * 365 * 86400.0
Seconds = Annotated[float, Field(ge=0, le=_LONGEST_S)]
Span = Annotated[tuple[Seconds, Seconds], BeforeValidator(_span)]
"""A number, or [least, most] to draw from."""

Share = Annotated[float, Field(ge=0, le=1)]
Skew = Annotated[float, Field(ge=-_LONGEST_S, le=_LONGEST_S)]
Topic = Annotated[str, Field(min_length=1, max_length=256, pattern="^[^+#]+$")]
"""Of a message that is sent: a wildcard there ends the connection."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _spans(self) -> _Model:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, float) for each in value):
                _ordered(value)
        return self


class Exit(_Model):
    """How a step ends otherwise than well.

    Args:
        step: Which one.
        after_s: When, after its start.
        status: Exit status, negative for a signal.
        output: The last line that it prints.
        times: How often, before it goes well; None for every time, which is a crash loop.
    """

    step: Literal["bootstrap", "install", "startup", "run"] = "run"
    after_s: Span = (0.5, 0.5)
    status: Annotated[int, Field(ge=-64, le=255)] = 1
    output: Annotated[str, Field(max_length=300)] = ""
    times: Annotated[int, Field(ge=1)] | None = None


class Message(_Model):
    """What a running component sends again and again, such as a heartbeat; `{thing}` in a topic is the device."""

    topic: Topic
    every_s: Annotated[float, Field(ge=0.1)] = 60.0
    payload: dict[str, Any] = {}


class Answer(_Model):
    """What a running component answers to a request, whose `request_id` it repeats."""

    topic: Annotated[str, Field(min_length=1, max_length=256)]
    answer: Topic
    after_s: Span = (0.01, 0.01)
    payload: dict[str, Any] = {}

    @model_validator(mode="after")
    def _ends(self) -> Answer:
        if self.answer == self.topic:
            raise ValueError(f"answer must be another topic than topic, or each answer is a request, got {self.topic}")
        return self


class Behaviour(_Model):
    """What a component does on the devices that the entry is about; the first that fits counts.

    Args:
        component: Name, with `*` and `?`.
        versions: Range such as `>=1.2.0 <2.0.0`; empty for all.
        dialect: Only on devices of this one.
        configuration: Values that its configuration must have, by JSON pointer.
        content: Only a version that has an artifact of this digest (base64 of its SHA-256).
        share: On so many of the devices, drawn for each device and version.
        install_s: How long its install step takes.
        start_s: How long until it answers and sends; of a startup step, how long that takes.
        memory_mb: What it needs while it runs; on a device that has less it is killed.
        exit: How it fails; None: it does not.
        messages: What it sends.
        answers: What it answers.
    """

    component: Annotated[str, Field(min_length=1)] = "*"
    versions: str = ""
    dialect: str | None = None
    configuration: dict[str, Any] = {}
    content: str = ""
    share: Share = 1.0
    install_s: Span = (0.2, 0.2)
    start_s: Span = (0.5, 0.5)
    memory_mb: Annotated[float, Field(ge=0)] = 0.0
    exit: Exit | None = None
    messages: tuple[Message, ...] = ()
    answers: tuple[Answer, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> Behaviour:
        _check_dialect(self.dialect)
        if self.versions and not is_range(self.versions):
            raise ValueError(f"versions must be a range of whole versions, as >=1.2.0 <2.0.0, got {self.versions!r}")
        if wrong := [pointer for pointer in self.configuration if not pointer.startswith("/")]:
            raise ValueError(f"configuration must have JSON pointers, which begin with /, got {wrong[0]!r}")
        return self


class Offline(_Model):
    """Devices that lose their network: so many, so long after they came, for so long; again after `every_s`."""

    share: Share
    after_s: Span = (0.0, 0.0)
    for_s: Span
    every_s: Annotated[float, Field(ge=1)] | None = None


class Profile(_Model):
    """A fleet.

    Args:
        seed: Of all that is drawn.
        dialects: Share of the devices by dialect; together 1.
        bandwidth_kbit_s: What a device downloads with; None for no limit.
        clock_skew_s: So much a device's clock is ahead; least and most may be negative.
        memory_mb: What a device has for its components; None for no limit.
        offline: Devices that lose their network.
        components: What components do; one without an entry installs in 0.2 s and runs on.
    """

    seed: int = 0
    dialects: dict[str, Share] = {"lite": 1.0}
    bandwidth_kbit_s: Annotated[float, Field(gt=0)] | None = None
    clock_skew_s: Annotated[tuple[Skew, Skew], BeforeValidator(_span)] = (0.0, 0.0)
    memory_mb: Annotated[float, Field(gt=0)] | None = None
    offline: tuple[Offline, ...] = ()
    components: tuple[Behaviour, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> Profile:
        for dialect in self.dialects:
            _check_dialect(dialect)
        if abs(sum(self.dialects.values()) - 1) > 1e-6:
            raise ValueError(f"dialects must have shares that sum up to 1, got {sum(self.dialects.values()):g}")
        return self


def _check_dialect(name: str | None) -> None:
    if name is not None and name not in DIALECTS:
        raise ValueError(f"dialect must be one of {', '.join(DIALECTS)}, got {name!r}")


def load_profile(path: Path) -> Profile:
    """Read a profile, a TOML file.

    Raises:
        TwinError: It cannot be read, or has mistakes; all of them are listed.
    """
    try:
        return read_profile(tomllib.loads(path.read_text("utf-8")), str(path))
    except (OSError, ValueError, RecursionError) as exc:
        raise TwinError(f"--profile must be a TOML file, got {path}: {exc}") from exc


def read_profile(content: Any, where: str = "profile") -> Profile:
    """Check a profile's content.

    Raises:
        TwinError: It has mistakes; all of them are listed.
    """
    try:
        return Profile.model_validate(content)
    except ValidationError as exc:
        mistakes = [
            f"{where}: {'.'.join(map(str, each['loc'])) or 'profile'}: {each['msg']}, got {str(each['input'])[:80]}"
            for each in exc.errors()
        ]
        raise TwinError("\n".join(mistakes)) from exc


class Lot:
    """What falls to a device.

    Args:
        profile: The fleet's.
        thing: The device.
    """

    def __init__(self, profile: Profile, thing: str) -> None:
        self._profile, self._thing = profile, thing

    def chance(self, *what: object) -> float:
        """A number from 0 to below 1 for a question; always the same."""
        text = "\0".join(map(str, (self._profile.seed, self._thing, *what)))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64

    def between(self, span: tuple[float, float], *what: object) -> float:
        """A number from a span for a question."""
        return span[0] + (span[1] - span[0]) * self.chance(*what)

    @property
    def dialect(self) -> str:
        """The device's."""
        drawn, reached = self.chance("dialect"), 0.0
        for name, share in self._profile.dialects.items():
            reached += share
            if drawn < reached:
                return name
        return list(self._profile.dialects)[-1]

    @property
    def skew_s(self) -> float:
        """How much the device's clock is ahead."""
        return self.between(self._profile.clock_skew_s, "skew")

    def outages(self) -> list[tuple[int, Offline]]:
        """When the device loses its network."""
        entries = enumerate(self._profile.offline)
        return [(number, entry) for number, entry in entries if self.chance("offline", number) < entry.share]

    def back_s(self, moment_s: float) -> float:
        """When the device hears what it is told at a moment; both in seconds since its outages began to count."""
        while later := [end for start, end in self._away(moment_s) if start <= moment_s < end]:
            moment_s = max(later)
        return moment_s

    def _away(self, moment_s: float) -> Iterator[tuple[float, float]]:
        """Beginning and end of the outages that begin up to a moment."""
        for number, entry in self.outages():
            start, times = self.between(entry.after_s, "offline after", number), 0
            while start <= moment_s:
                end = start + self.between(entry.for_s, "offline for", number, times)
                yield start, end
                if entry.every_s is None:
                    break
                start, times = end + entry.every_s, times + 1

    def behaviour(self, recipe: Recipe, dialect: str, configuration: Mapping[str, Any]) -> Behaviour:
        """What a component version does on the device."""
        for number, entry in enumerate(self._profile.components):
            if (
                fnmatch.fnmatchcase(recipe.name, entry.component)
                and (not entry.versions or satisfies(recipe.version, entry.versions))
                and entry.dialect in (None, dialect)
                and (not entry.content or entry.content in {artifact.digest for artifact in recipe.artifacts})
                and all(_at(configuration, pointer) == value for pointer, value in entry.configuration.items())
                and self.chance("share", number, recipe.name, recipe.version) < entry.share
            ):
                return entry
        return _WELL


_WELL = Behaviour()


def _at(configuration: Any, pointer: str) -> Any:
    for key in pointer.split("/")[1:]:
        configuration = configuration.get(key) if isinstance(configuration, dict) else None
    return configuration
