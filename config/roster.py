"""The fleet's list of devices: a CSV or YAML file beside the stages, thousands of rows long if need be."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Ring = Literal["canary", "early", "all"]
#: In the order of a rollout; a device is in exactly one, because two deployments on one device would contradict.
RINGS: tuple[Ring, ...] = ("canary", "early", "all")
_LAST = RINGS[-1]
_NAME = re.compile(r"[a-zA-Z0-9:_-]{1,124}")
_FIELDS = {"device", "ring"}
_SHOWN = 20


class RosterError(ValueError):
    """The file cannot be used; `mistakes` holds one text a mistake, each with its row."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True, order=True)
class Device:
    """A row: thing name and ring, `all` unless the file says otherwise."""

    name: str
    ring: str = _LAST


def read_roster(path: Path) -> tuple[Device, ...]:
    """Read and check a list of devices.

    Args:
        path: `.csv` with the columns `device` and, if wanted, `ring`; or `.yaml` with a list of names or of mappings
            with these two keys.

    Returns:
        The devices, sorted by name.

    Raises:
        RosterError: The file is missing or unreadable, or rows break rules.
    """
    reader = {".csv": _csv_rows, ".yaml": _yaml_rows, ".yml": _yaml_rows}.get(path.suffix)
    if reader is None:
        raise RosterError([f"{path.name}: a list of devices must be a .csv, .yaml or .yml file"])
    try:
        rows = reader(path.read_text(encoding="utf-8-sig"), path.name)
    except (OSError, UnicodeDecodeError) as exc:
        raise RosterError([f"{path.name}: must be a readable file in UTF-8: {exc}"]) from exc
    mistakes: list[str] = []
    found: dict[str, Device] = {}
    for where, row in rows:
        device = _device(row, f"{path.name} {where}", mistakes)
        if device and device.name in found:
            mistakes.append(f"{path.name} {where}: device must be listed once, {device.name!r} is there twice")
        elif device:
            found[device.name] = device
    if mistakes:
        more = [f"{path.name}: and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        raise RosterError([*mistakes[:_SHOWN], *more])
    return tuple(sorted(found.values()))


def _csv_rows(text: str, name: str) -> list[tuple[str, Any]]:
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = set(reader.fieldnames or ())
    if "device" not in columns or columns - _FIELDS:
        raise RosterError([f"{name}: the first line must name the columns device and ring, got {sorted(columns)}"])
    return [(f"line {reader.line_num}", {key: value for key, value in row.items() if value}) for row in reader]


def _yaml_rows(text: str, name: str) -> list[tuple[str, Any]]:
    import yaml

    try:
        # The parser in C: the one in Python takes seconds for ten thousand rows.
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 (a safe loader)
    except yaml.YAMLError as exc:
        raise RosterError([f"{name}: must be YAML: {exc}"]) from exc
    if not isinstance(content, list):
        raise RosterError([f"{name}: must be a list of devices, got {type(content).__name__}"])
    return [
        (f"entry {number}", {"device": row} if isinstance(row, str) else row) for number, row in enumerate(content, 1)
    ]


def _device(row: Any, where: str, mistakes: list[str]) -> Device | None:
    if not isinstance(row, dict) or set(row) - _FIELDS:
        mistakes.append(f"{where}: a row must have a device and may have a ring, got {row!r}")
        return None
    before = len(mistakes)
    name, ring = str(row.get("device", "")), str(row.get("ring", _LAST))
    if not _NAME.fullmatch(name):
        mistakes.append(f"{where}: device must be 1 to 124 letters, digits, ':', '_' or '-', got {name!r}")
    if ring not in RINGS:
        mistakes.append(f"{where}: ring must be one of {', '.join(RINGS)}, got {ring!r}")
    return Device(name, ring) if len(mistakes) == before else None
