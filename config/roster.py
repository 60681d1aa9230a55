"""Lists of devices in a file beside a stage's: a device a row, with one more column."""

import contextlib
import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

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
