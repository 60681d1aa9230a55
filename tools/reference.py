"""Writes what can be looked up in the documents, from the code: python -m tools.reference [--write].

docs/reference/stage-file.md  every key of a stage's file
docs/reference/commands.md    every command and its options
the tables of settings in docs/workloads.md, docs/agent.md and docs/v1-handlers.md
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

from pydantic_core import PydanticUndefined
from typer import Typer
from typer.main import get_command

from config.section import Section
from config.stage import Stage
from edge_component.settings import known
from edge_inference.settings import AgentSettings, ModelSettings, ServiceSettings
from tools.cloud_assembly import ROOT
from twin.cli import application
from v1_handler.settings import HandlerSettings

DOCS = ROOT / "docs"
#: Document, what the table's first column is called, and the class behind it.
TABLES: tuple[tuple[str, str, type], ...] = (
    ("workloads.md", "key of `models.<name>`", ModelSettings),
    ("workloads.md", "key for all models", ServiceSettings),
    ("agent.md", "key of `agent`", AgentSettings),
    ("v1-handlers.md", "key on the device", HandlerSettings),
)
_UNITS = {1 << 20: "MiB", 1 << 10: "KiB"}
_WRITTEN = "Written by `python -m tools.reference --write`.\n"
_PROSE = re.compile(r"\s*\n\s*")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the references, or write them into the documents.

    Args:
        arguments: Without the program's name; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.reference", description="references of the documents")
    parser.add_argument("--write", action="store_true", help="write them into docs/ instead of printing them")
    options = parser.parse_args(arguments)
    for name, content in current().items():
        if options.write:
            (DOCS / name).write_text(content, encoding="utf-8")
        else:
            print(f"docs/{name}\n\n{content}\n")


def current() -> dict[str, str]:
    """Write every document of the reference as the code is now: path below docs/ to content."""
    documents = {"reference/stage-file.md": stage_file(), "reference/commands.md": commands()}
    for name, title, settings in TABLES:
        content = documents.get(name) or (DOCS / name).read_text(encoding="utf-8")
        documents[name] = written(content, title, settings)
    return documents


# Settings of devices


def table(title: str, settings: type) -> str:
    """Write the table of a settings class.

    Args:
        title: Of the first column.
        settings: The class.

    Returns:
        Markdown, a line a key.
    """
    rows = [f"| {title} | values | default | what |", "|---|---|---|---|"]
    fields, told = {each.name: each for each in dataclasses.fields(settings)}, attributes(settings)
    for name, about in known(settings).items():
        default = "required" if about.required else _shown(fields[name].default)
        rows.append(f"| `{about.key}` | {about.kind.said} | {default} | {told[name]} |")
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


# The stage's file


def stage_file() -> str:
    """Write the page of a stage's file: a table of keys for each of its tables."""
    lines = [
        "# The stage's file",
        "",
        "`config/<stage>.toml` says what a stage is; `-c stage=<stage>` chooses it. All that does not fit is told at",
        "once: file, field, rule and value. " + _WRITTEN,
    ]
    for heading, section in _sections(Stage, ""):
        what = inspect.getdoc(section) or ""
        lines += [f"## `{heading}`" if heading else "## Top of the file", _cell(what.split("\n\n")[0]), ""]
        lines += ["| key | values | default | what |", "|---|---|---|---|"]
        told, schema = attributes(section), section.model_json_schema()
        for name, field in section.model_fields.items():
            inner = section_of(field.annotation)
            about = told.get(name) or (_cell((inspect.getdoc(inner) or "").split("\n\n")[0]) if inner else "")
            values = (
                f"[a table](#{_anchor(_heading(heading, name, field.annotation))})"
                if inner
                else _values(schema["properties"][name], schema.get("$defs", {}))
            )
            default = "required" if field.is_required() else "" if inner else _shown(field.default)
            lines.append(f"| `{name}` | {values} | {default} | {_cell(about)} |")
        lines.append("")
    return "\n".join(lines)


def attributes(section: type) -> dict[str, str]:
    """Take the descriptions of a class's attributes out of its docstring.

    Args:
        section: A class with an `Attributes:` part in Google's style.

    Returns:
        Attribute to its description, in one line each.
    """
    _, _, part = (inspect.getdoc(section) or "").partition("Attributes:\n")
    part = part.split("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", part, re.MULTILINE)
    return {name: _PROSE.sub(" ", text) for name, text in found}


def _sections(section: type[Section], heading: str) -> Iterator[tuple[str, type[Section]]]:
    yield heading, section
    for name, field in section.model_fields.items():
        if inner := section_of(field.annotation):
            yield from _sections(inner, _heading(heading, name, field.annotation))


def _heading(outer: str, name: str, annotation: Any) -> str:
    """How a table begins in the file: `[outer.name]`, a list's `[[name]]`, or one by names."""
    path = ".".join(filter(None, (outer.strip("[]"), name)))
    kinds = {typing.get_origin(each) for each in (annotation, *typing.get_args(annotation))}
    return f"[[{path}]]" if tuple in kinds else f"[{path}.NAME]" if dict in kinds else f"[{path}]"


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower())


def section_of(annotation: Any) -> type[Section] | None:
    """The table that a key holds, alone, in a list or by name."""
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next((found for each in typing.get_args(annotation) if (found := section_of(each))), None)


def _values(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """What a value may be, out of its JSON schema."""
    if "$ref" in schema:
        return _values(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if choices := [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]:
        return " or ".join(dict.fromkeys(_values(each, definitions) for each in choices))
    if "enum" in schema:
        return "one of " + ", ".join(f"`{each}`" for each in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = schema.get("type")
    if kind == "array":
        items = schema.get("items") or {}
        return f"a list: {_values(items, definitions)}" if items else "a list"
    if kind == "object":
        return "a table"
    if kind == "boolean":
        return "true, false"
    if kind in ("integer", "number"):
        words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
        bounds = [f"{word} {_number(schema[bound])}" for bound, word in words.items() if bound in schema]
        return " ".join(["a whole number" if kind == "integer" else "a number", *bounds])
    if "format" in schema:
        return f"a {schema['format']}"
    if "pattern" in schema:
        most = f", at most {schema['maxLength']} characters" if "maxLength" in schema else ""
        return f"a text like `{schema['pattern']}`".replace("|", "\\|") + most
    return "a text"


# Commands


def commands() -> str:
    """Write the page of all commands: those of the twin, then the tools, each with what it takes."""
    lines = [
        "# Commands",
        "",
        "After `make setup` unless a page says otherwise; `make help` lists make's targets. " + _WRITTEN,
        "## The twin",
        "",
    ]
    group = get_command(application)
    for name, command in sorted(getattr(group, "commands", {}).items()):
        lines += [f"### python -m twin {name}", _cell(command.help or ""), "", *_clicked(command)]
    lines += ["## Tools", ""]
    for file in sorted((ROOT / "tools").glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if not re.search(r"^(def main\(|main = )", text, re.MULTILINE):
            continue
        about = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
        lines += [f"### python -m tools.{file.stem}", _cell(about), ""]
        run = importlib.import_module(f"tools.{file.stem}").main
        if "argparse.ArgumentParser(" in text:
            lines += _parsed(run)
        else:
            alone = Typer(add_completion=False)
            alone.command()(run)
            lines += _clicked(get_command(alone))
    return "\n".join(lines)


def _clicked(command: Any) -> list[str]:
    """Options of a command that typer makes out of a function's parameters."""
    rows = []
    for each in command.params:
        if each.name != "help":
            name = " ".join(each.opts) if each.param_type_name == "option" else str(each.name).upper()
            unsaid = each.default in (None, False, (), "") or callable(each.default) or each.required
            default = "" if unsaid else f" (default: {_relative(each.default)})"
            rows.append((name, getattr(each, "help", "") or "", default))
    return _options(rows)


class _FoundError(Exception):
    """A parser was about to read the command line."""


def _parsed(run: Callable[..., object]) -> list[str]:
    """Options of a command, from the parser that it makes when it is run."""
    made: list[argparse.ArgumentParser] = []

    def found(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        made.append(parser)
        raise _FoundError

    with patch.object(argparse.ArgumentParser, "parse_known_args", found), patch.object(sys, "argv", ["command"]):
        try:
            run()
        except _FoundError:
            return _arguments(made[0], "")
    return []


def _arguments(parser: argparse.ArgumentParser, before: str) -> list[str]:
    rows, deeper = [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                about = next((each.help for each in action._choices_actions if each.dest == name), None)
                deeper += [f"`{before}{name}`: {about or ''}".rstrip(": "), "", *_arguments(inner, f"{before}{name} ")]
        elif not isinstance(action, argparse._HelpAction):
            said = _relative((action.help or "") % {**vars(action), "prog": parser.prog})
            rows.append((", ".join(action.option_strings) or str(action.metavar or action.dest), said, ""))
    return [*_options(rows), *deeper]


def _options(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    if not rows:
        return []
    told = [f"| `{name}` | {_cell(about)}{default} |" for name, about, default in rows]
    return ["| option | what |", "|---|---|", *told, ""]


def _relative(value: object) -> str:
    """A default, as it reads in any checkout."""
    return "this one" if value == ROOT else str(value).replace(f"{ROOT}/", "")


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING or value is PydanticUndefined or value in ("", (), None):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        unit = next((unit for unit in _UNITS if value and value % unit == 0), None)
        return f"{value // unit} {_UNITS[unit]}" if unit else _number(value)
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return f"`{value}`"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _cell(text: str) -> str:
    return _PROSE.sub(" ", text.strip()).replace("|", "\\|").replace("\\\\|", "\\|")


if __name__ == "__main__":
    main()
