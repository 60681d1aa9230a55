"""What a stage's file may say of its devices and their rings, and how deployments reach them; lists of devices."""

import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints, model_validator

from config.section import Section

_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")
#: Lines of a message, the last of which may say how many more there are.
_SHOWN = 10

ThingName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9:_-]+$", max_length=124)]
FileName = Annotated[str, StringConstraints(pattern=r"^[\w./-]+\.(csv|ya?ml)$")]


class RosterError(ValueError):
    """The file cannot be used; `mistakes` holds one text a mistake, each with its row."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True)
class Listing:
    """The column beside `device`.

    Attributes:
        noun: What a row may have there, with its article.
        problem: What is wrong with a value, empty where nothing is; it begins with `must`.
    """

    noun: str
    problem: Callable[[str], str]


#: Where a row stands, its fields, and what is wrong with it as a row; then the fields do not count.
_Row = tuple[str, dict[str, str], str]


def read_list(path: Path, column: str, listing: Listing) -> dict[str, str]:
    """Read and check a list of devices.

    Args:
        path: `.csv` with the columns `device` and, if wanted, the other one; or `.yaml` with a list of names or of
            mappings with these two keys. Both hold text only: `0123` and `10:20:30` are names as they stand.
        column: Name of the other column.
        listing: What it holds.

    Returns:
        Device to the other column's value, empty where the row has none, sorted by device.

    Raises:
        RosterError: The file is missing or unreadable, or rows break rules.
    """
    reader = {".csv": _csv_rows, ".yaml": _yaml_rows, ".yml": _yaml_rows}.get(path.suffix)
    if reader is None:
        raise RosterError([f"{path.name}: a list of devices must be a .csv, .yaml or .yml file"])
    may = f"a row must have a device and may have {listing.noun}"
    try:
        rows = reader(path.read_text(encoding="utf-8-sig"), path.name, column, may)
    except (OSError, UnicodeDecodeError) as exc:
        raise RosterError([f"{path.name}: must be a readable file in UTF-8: {exc}"]) from exc
    mistakes: list[str] = []
    found: dict[str, str] = {}
    for where, row, wrong in rows:
        problems = [wrong] if wrong else list(_problems(row, column, listing, found))
        mistakes += [f"{path.name} {where}: {problem}" for problem in problems]
        if not problems:
            found[row["device"]] = row.get(column, "")
    if len(mistakes) > _SHOWN:
        mistakes[_SHOWN - 1 :] = [f"{path.name}: and {len(mistakes) - _SHOWN + 1} more"]
    if mistakes:
        raise RosterError(mistakes)
    return dict(sorted(found.items()))


def _problems(row: Mapping[str, str], column: str, listing: Listing, found: Mapping[str, str]) -> Iterable[str]:
    name = row.get("device", "")
    if not _NAME.fullmatch(name):
        yield f"device must be 1 to 124 letters, digits, ':', '_' or '-', got {shown(name)}"
    if column in row and (problem := listing.problem(row[column])):
        yield f"{column} {problem}, got {shown(row[column])}"
    elif name in found:
        yield f"device must be listed once, {name!r} is there twice"


def _csv_rows(text: str, name: str, column: str, may: str) -> list[_Row]:
    # No value has a line break in it, so that each line is read alone: a quote that is not closed costs one line.
    lines = enumerate(text.split("\n"), 1)
    first = next((line for _, line in lines if line.strip()), "")
    columns, wrong = _fields(first)
    if not wrong and ("device" not in columns or set(columns) - {"device", column} or len(set(columns)) < len(columns)):
        wrong = f"the first line must name the columns device and {column}, each once, got {shown(columns)}"
        other = next((mark for mark in ";\t|" if "," not in first and mark in first), "")
        wrong += f": use commas, not {other!r}, between the columns" if other else ""
    if wrong:
        raise RosterError([f"{name}: {wrong}"])
    rows = []
    for number, line in lines:
        values, wrong = _fields(line)
        if not wrong and len(values) > len(columns):
            wrong = f"{may}, got {shown(values)}"
        row = {column: value for column, value in zip(columns, values, strict=False) if value}
        if values or wrong:
            rows.append((f"line {number}", row, wrong))
    return rows


def _fields(line: str) -> tuple[list[str], str]:
    """A line's values, and what is wrong with it; no value for an empty line."""
    try:
        return next(csv.reader([line], skipinitialspace=True, strict=True), []), ""
    except csv.Error as exc:
        if "unexpected end" in str(exc):
            return [], f"a quote is not closed in {shown(line)}: close it, or remove it"
        return [], f"a value in quotes must be followed by a comma or the line's end, got {shown(line)}"


def _yaml_rows(text: str, name: str, column: str, may: str) -> list[_Row]:
    import yaml

    try:
        # The tree of texts, before YAML makes numbers, times and booleans of them or drops a key that is there twice;
        # by the parser in C: the one in Python takes seconds for ten thousand rows.
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as exc:
        raise RosterError([f"{name}{_yaml_mistake(text, exc)}"]) from exc
    if not isinstance(root, yaml.SequenceNode):
        kind = {yaml.MappingNode: "a mapping", yaml.ScalarNode: "a text"}.get(type(root), "nothing")
        raise RosterError([f"{name}: must be a list of devices, got {kind}"])
    return [(f"line {node.start_mark.line + 1}", *_yaml_row(node, column, may)) for node in root.value]


def _yaml_row(node: Any, column: str, may: str) -> tuple[dict[str, str], str]:
    """A row's fields, and what is wrong with it."""
    if isinstance(node.value, str):
        return {"device": node.value}, ""
    entries = node.value if node.id == "mapping" else []
    keys = [str(key.value) for key, _ in entries]
    if not entries or set(keys) - {"device", column} or not all(isinstance(value.value, str) for _, value in entries):
        return {}, f"{may}, got {shown(keys or node.id)}"
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        return {}, f"a row must have each key once, {', '.join(twice)} is there twice"
    # A ring that is left empty is the default, as an empty cell of a CSV file is.
    return {key.value: value.value for key, value in entries if value.value}, ""


def _yaml_mistake(text: str, error: Any) -> str:
    """Place and text of what the parser says, without the excerpt, which may be the whole file."""
    said = " ".join(part for part in (getattr(error, "context", ""), getattr(error, "problem", "")) if part)
    if "quoted scalar" in said:
        line = error.context_mark.line  # where it began; the end of the file is where it was missed
    elif (line := _line_of_open_quote(text)) is None:
        mark = getattr(error, "problem_mark", None)
        return f"{f' line {mark.line + 1}' if mark else ''}: must be YAML: {said or shown(str(error))}"
    return f" line {line + 1}: a quote is not closed: close it, or remove it"


def _line_of_open_quote(text: str) -> int | None:
    """Where a quoted text begins that ends in another line, which no name does: with the next row's first quote."""
    import yaml

    with contextlib.suppress(yaml.YAMLError):
        for token in yaml.scan(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if isinstance(token, yaml.ScalarToken) and token.style and token.start_mark.line < token.end_mark.line:
                return int(token.start_mark.line)
    return None


def shown(value: Any) -> str:
    """A value in a message, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


Ring = Literal["canary", "early", "all"]
#: In the order of a rollout; a device is in exactly one, because two deployments on one device would contradict.
RINGS: tuple[Ring, ...] = ("canary", "early", "all")
_LAST = RINGS[-1]
#: CloudFormation gives a custom resource an hour.
LONGEST_WAIT_MIN = 50


@dataclass(frozen=True, order=True)
class Device:
    """A row: thing name and ring, `all` unless the file says otherwise."""

    name: str
    ring: str = _LAST


def read_roster(path: Path) -> tuple[Device, ...]:
    """Read and check a list of devices.

    Args:
        path: As of `read_list`, with the column `ring`.

    Returns:
        The devices, sorted by name.

    Raises:
        RosterError: The file is missing or unreadable, or rows break rules.
    """
    return tuple(Device(name, ring or _LAST) for name, ring in read_list(path, "ring", _RING).items())


_RING = Listing("a ring", lambda ring: "" if ring in RINGS else f"must be one of {', '.join(RINGS)}")


class Fleet(Section):
    """The devices that the stage registers, besides its edge server.

    Attributes:
        devices: Thing names; empty by default. They are in the ring `all`.
        file: Name of a CSV or YAML file beside the stage's, with a device and its ring a row; none by default.
        registry: `iot`, or `sagemaker`: the things are devices of a SageMaker device fleet as well, which AWS retired
            in 2024.
        nucleus: `any`: nucleus lite may run on a device, so its limits hold (18 components, recipes of 8 kB); or
            `classic`: on none, and nothing is offered to it.
    """

    devices: tuple[ThingName, ...] = ()
    file: FileName | None = None
    registry: Literal["iot", "sagemaker"] = "iot"
    nucleus: Literal["any", "classic"] = "any"
    _listed: tuple[Device, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _names_for_sagemaker(self) -> "Fleet":
        if wrong := self._not_for_sagemaker(self.devices):
            raise ValueError(wrong)
        return self

    def _not_for_sagemaker(self, names: Iterable[str]) -> str:
        """What is wrong with names if they are to be SageMaker's, too."""
        wrong = [name for name in names if not re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)]
        if self.registry == "iot" or not wrong:
            return ""
        return (
            "devices must have names of 1 to 63 letters, digits and inner dashes with registry sagemaker: "
            f"{', '.join(wrong[:5])}"
        )

    @property
    def roster(self) -> tuple[Device, ...]:
        """All devices, those of the file included, sorted by name."""
        return tuple(sorted({*map(Device, self.devices), *self._listed}))

    def ring_of(self, name: str) -> str:
        """The ring of a device; `all` for one that is not listed."""
        return next((device.ring for device in self.roster if device.name == name), _LAST)

    def read_file(self, folder: Path) -> None:
        """Read the file, once, when the stage is loaded.

        Raises:
            RosterError: It cannot be used.
        """
        if self.file is None:
            return
        self._listed = read_roster(folder / self.file)
        if twice := sorted({device.name for device in self._listed} & set(self.devices)):
            raise RosterError([f"{self.file}: device must be listed once, also in fleet.devices: {', '.join(twice)}"])
        if wrong := self._not_for_sagemaker(device.name for device in self._listed):
            raise RosterError([f"{self.file}: {wrong}"])


class Growth(Section):
    """A rollout that starts slowly and gets faster while it succeeds.

    Attributes:
        devices_per_minute: Devices notified a minute at first.
        factor: By which that grows, 1.1 to 5.
        after_devices: It grows each time so many devices more have succeeded.
    """

    devices_per_minute: int = Field(ge=1, le=1000)
    factor: float = Field(default=2, ge=1.1, le=5)
    after_devices: int = Field(default=10, ge=1, le=1_000_000)


class Rollout(Section):
    """How fast a deployment reaches a ring, and what becomes of a device or a rollout that fails.

    Attributes:
        devices_per_minute: Upper bound of devices notified a minute.
        growth: How the rate grows up to that bound; it is constant by default.
        timeout_minutes: After so long a device that is still busy counts as failed.
        abort_percentage: Failed devices, in per cent, that cancel the rollout.
        abort_after: Devices that must have finished before that share counts.
        on_failure: What a failed classic device does: `rollback` to what it ran, or `keep` the new state, as lite does.
        notify: Whether the classic nucleus asks a component before it is updated; lite asks nobody.
        notify_timeout_s: How long a component may put off its own update, s.
    """

    devices_per_minute: int = Field(default=50, ge=1, le=1000)
    growth: Growth | None = None
    timeout_minutes: int = Field(default=60, ge=1, le=10080)
    abort_percentage: float = Field(default=10, gt=0, le=100)
    abort_after: int = Field(default=10, ge=1, le=1_000_000)
    on_failure: Literal["rollback", "keep"] = "rollback"
    notify: bool = True
    notify_timeout_s: int = Field(default=60, ge=1, le=86400)

    @model_validator(mode="after")
    def _grows_up_to_the_bound(self) -> "Rollout":
        if self.growth and self.growth.devices_per_minute > self.devices_per_minute:
            raise ValueError(
                f"growth.devices_per_minute must be at most devices_per_minute {self.devices_per_minute}, up to which "
                f"the rate grows, got {self.growth.devices_per_minute}"
            )
        return self


class Health(Section):
    """What a deploy waits for; without it `cdk deploy` ends before the first device has heard of the deployment.

    Attributes:
        rings: The rings whose devices must be healthy before the next ring's turn and before the deploy ends; empty to
            wait for none. A ring without a core device is passed at once.
        timeout_minutes: After so long a ring that is not healthy fails the deploy.
        healthy_percentage: Share of a ring's core devices, in per cent, that is enough.
        away_minutes: A device that has not taken a deployment up so long after it was offered is away: it is not waited
            for, and gets the deployment when it comes back. 0, the default: every device is waited for.
        present_percentage: Share of a ring's core devices, in per cent, that must not be away.
    """

    rings: tuple[Ring, ...] = RINGS
    timeout_minutes: int = Field(default=20, ge=1, le=LONGEST_WAIT_MIN)
    healthy_percentage: int = Field(default=100, ge=1, le=100)
    away_minutes: int = Field(default=0, ge=0, lt=LONGEST_WAIT_MIN)
    present_percentage: int = Field(default=50, ge=1, le=100)

    @model_validator(mode="after")
    def _away_before_the_end(self) -> "Health":
        if self.away_minutes >= self.timeout_minutes:
            raise ValueError(
                f"away_minutes must be below timeout_minutes {self.timeout_minutes}, at which the deploy fails, "
                f"got {self.away_minutes}"
            )
        return self


class Promotion(Section):
    """What a new version of a model must show beside the one in use, before its ring takes it; see docs/promotion.md.

    Attributes:
        rings: Rings in which a new version is a candidate first; empty, the default, to take every version at once.
            They must be among `health.rings`: the deploy waits for the decision as for health.
        agreement: Share of inputs that it must answer as the current one does, 0 to 1; 0: not looked at.
        accuracy: Share of inputs of which requests say the label, that it must get right, 0 to 1; 0: not looked at.
        zone: A candidate so far below agreement or accuracy is accepted with a probability of at most `beta`.
        latency_ratio: The median of its time over the current one's must be at most this; 0: not looked at.
        memory_mb: It may take so much; one that takes more is not run. 0: not looked at.
        inputs: After so many compared inputs of the ring it is decided at the latest.
        minutes: After so long it is decided at the latest; what is not accepted by then is refused.
        alpha: Probability, at most, of refusing a candidate that reaches everything.
        beta: Probability, at most, of accepting one that misses something by the zone or more.
    """

    rings: tuple[Ring, ...] = ()
    agreement: float = Field(default=0.95, ge=0, lt=1)
    accuracy: float = Field(default=0, ge=0, lt=1)
    zone: float = Field(default=0.05, ge=1e-3, lt=1)
    latency_ratio: float = Field(default=1.5, ge=0, le=16)
    memory_mb: int = Field(default=0, ge=0, le=1 << 20)
    inputs: int = Field(default=1000, ge=1, le=1_000_000)
    minutes: int = Field(default=30, ge=1, le=49)
    alpha: float = Field(default=0.05, ge=1e-6, le=0.5)
    beta: float = Field(default=0.05, ge=1e-6, le=0.5)

    @model_validator(mode="after")
    def _something_is_looked_at(self) -> "Promotion":
        if self.rings and not (self.agreement or self.accuracy or self.latency_ratio or self.memory_mb):
            raise ValueError("agreement, accuracy, latency_ratio or memory_mb must be above 0, got 0 for all of them")
        for name in ("agreement", "accuracy"):
            if 0 < getattr(self, name) <= self.zone:
                raise ValueError(f"zone must be below {name}, got {self.zone:g} and {getattr(self, name):g}")
        return self
