"""Prints what can be set on a device, as the tables of the documents: python -m tools.settings_tables [--write]."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge_component.settings import known
from edge_inference.settings import AgentSettings, ModelSettings, ServiceSettings
from v1_handler.settings import HandlerSettings

DOCS = Path(__file__).resolve().parents[1] / "docs"
#: Document, what the table's first column is called, and the class behind it.
TABLES: tuple[tuple[str, str, type], ...] = (
    ("workloads.md", "key of `models.<name>`", ModelSettings),
    ("workloads.md", "key for all models", ServiceSettings),
    ("agent.md", "key of `agent`", AgentSettings),
    ("v1-handlers.md", "key on the device", HandlerSettings),
)
_UNITS = {1 << 20: "MiB", 1 << 10: "KiB"}


def table(title: str, settings: type) -> str:
    """Write the table of a settings class.

    Args:
        title: Of the first column.
        settings: The class.

    Returns:
        Markdown, a line a key.
    """
    rows = [f"| {title} | values | default | what |", "|---|---|---|---|"]
    fields = {each.name: each for each in dataclasses.fields(settings)}
    for name, about in known(settings).items():
        default = "required" if about.required else _shown(fields[name])
        rows.append(f"| `{about.key}` | {about.kind.said} | {default} | {about.doc} |")
    return "\n".join(rows)


def written(content: str, title: str, settings: type) -> str:
    """Put a table into a document, in place of the one with its title.

    Args:
        content: The document.
        title: Of the table's first column.
        settings: The class behind it.

    Returns:
        The document with the table as it should be.

    Raises:
        ValueError: The document has no such table.
    """
    lines = content.splitlines()
    try:
        first = next(place for place, line in enumerate(lines) if line.startswith(f"| {title} |"))
    except StopIteration:
        raise ValueError(f"a document must have a table that begins with '| {title} |', got none") from None
    last = first
    while last < len(lines) and lines[last].startswith("|"):
        last += 1
    return "\n".join([*lines[:first], table(title, settings), *lines[last:], ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables, or write them into their documents.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.settings_tables", description="tables of settings")
    parser.add_argument("--write", action="store_true", help="write them into docs/ instead of printing them")
    options = parser.parse_args(arguments)
    for name, title, settings in TABLES:
        if options.write:
            file = DOCS / name
            file.write_text(written(file.read_text(encoding="utf-8"), title, settings), encoding="utf-8")
        else:
            print(f"docs/{name}\n\n{table(title, settings)}\n")


def _shown(field: "dataclasses.Field[Any]") -> str:
    value = field.default
    if value is dataclasses.MISSING or value in ("", ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"`{value}`"
    unit = next((unit for unit in _UNITS if value and value % unit == 0), None)
    return f"{value // unit} {_UNITS[unit]}" if unit else f"{value:g}"


if __name__ == "__main__":
    main()
