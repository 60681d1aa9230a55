"""Reads a stage's file and reports every mistake in it at once."""

import json
import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from config.fleet import RosterError
from config.places import PROJECT, STAGES
from config.section import Section
from config.stage import Stage

FOLDER = STAGES
#: Names nothing that other people use: a deploy that forgot its stage touches neither dev nor prod.
DEFAULT_STAGE = "twin"


class ConfigurationError(Exception):
    """A stage cannot be used as it is written; the text lists every mistake, one a line."""


def stage_names(folder: Path = FOLDER) -> list[str]:
    """List the stages that have a file, sorted; one that an editor or a file system hides (`.#dev.toml`) is none."""
    return sorted(path.stem for path in folder.glob("*.toml") if not path.name.startswith("."))


def read_context(path: Path = PROJECT / "cdk.json") -> dict[str, Any]:
    """Read an app's feature flags and settings, so that `python app.py` and `cdk synth` give the same templates.

    Args:
        path: The app's `cdk.json`.

    Returns:
        Its `context`, empty without one; what the command line passes in `CDK_CONTEXT_JSON` wins over it.

    Raises:
        ConfigurationError: It cannot be read, is no JSON, or of another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigurationError(f"{path.name} must be a file that can be read, got {exc}: restore it") from exc
    except (ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{path.name} must be JSON in UTF-8, got {exc}: correct or restore it") from exc
    context = content.get("context", {}) if isinstance(content, dict) else None
    if not isinstance(context, dict):
        raise ConfigurationError(
            f"{path.name} must be a JSON object with an object context, got {str(content)[:80]}: correct or restore it"
        )
    return context


def load_stage(name: str, folder: Path = FOLDER) -> Stage:
    """Read and check one stage.

    Args:
        name: The stage, as in `-c stage=…`.
        folder: Where the stages' files lie, `config/` by default.

    Returns:
        The stage, complete with defaults.

    Raises:
        ConfigurationError: There is no such stage, its name is part of another one's, its file is no TOML, or values in
            it break rules.
    """
    known = stage_names(folder)
    if not known:
        raise ConfigurationError(f"{folder} must hold a stage's file, such as {name}.toml, it holds none: go to an app")
    if name not in known:
        raise ConfigurationError(
            f"stage must be one of {', '.join(known)}, got {name!r}: name one of them, or write "
            f"{folder.name}/{name}.toml"
        )
    for other in known:
        shorter, longer = sorted((name, other), key=len)
        if longer.startswith(f"{shorter}-"):
            raise ConfigurationError(
                f"a stage's name must not begin with another one's and a hyphen, got {longer!r} and {shorter!r}: "
                f"groups, stacks and rights of both would meet (edgewright-{longer}); rename one of the files"
            )
    path = folder / f"{name}.toml"
    shown = f"{folder.name}/{path.name}"
    try:
        # Some editors put a byte order mark in front.
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigurationError(f"{shown}: must be a file that can be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:  # of TOML and of UTF-8, and a number or a list without end
        raise ConfigurationError(f"{shown}: must be TOML in UTF-8: {exc}") from exc
    if "name" in values:
        raise ConfigurationError(f"{shown}: name: comes from the file's name, got {values['name']!r}: remove it")
    right: dict[str, Any] = {}
    try:
        stage = Stage.model_validate({"name": name, **values}, context=right)
        stage.read_lists(folder)
    except ValidationError as exc:
        lines = [*_mistakes(exc), *_further_mistakes(exc, right, folder)]
        raise ConfigurationError("\n".join(f"{shown}: {line}" for line in lines)) from exc
    except RosterError as exc:
        raise ConfigurationError("\n".join(f"{shown}: {line}" for line in exc.mistakes)) from exc
    return stage


def _mistakes(error: ValidationError) -> list[str]:
    """Say of each mistake which field breaks which rule with which value."""
    lines = []
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"])
        rule = mistake["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
        # A missing field, or a rule about several, has no value of its own: pydantic shows the whole table.
        several = mistake["type"] in ("missing", "value_error") and isinstance(mistake["input"], dict)
        value = "" if several or f"got {mistake['input']!r}" in rule else f", got {mistake['input']!r:.200}"
        if mistake["type"] == "extra_forbidden":
            rule, value = f"must be a key of the table: {_known(mistake['loc'])}", ""
        # A rule about several may find several mistakes, one a line.
        lines += [f"{field}: {each[0].lower()}{each[1:]}{value}".removeprefix(": ") for each in rule.splitlines()]
    return lines


def _further_mistakes(error: ValidationError, right: dict[str, Any], folder: Path) -> Iterator[str]:
    """What else can be judged: rules between tables, which pydantic asks only if all fields are right, and lists."""
    wrong = {str(mistake["loc"][0]) for mistake in error.errors(include_url=False) if mistake["loc"]}
    stage = Stage.of_right_tables(right, wrong)
    if wrong:
        yield from stage.mistakes_between_tables()
    try:
        stage.read_lists(folder)
    except RosterError as exc:
        yield from exc.mistakes
    except AttributeError:
        if not wrong:
            raise


def _known(place: tuple[int | str, ...]) -> str:
    """What a key that does not exist may have been meant for: the one that is spelled alike, else all of the table."""
    tables: list[type[Section]] = [Stage]
    for part in place[:-1]:
        if isinstance(part, str):
            found = [table.model_fields[part].annotation for table in tables if part in table.model_fields]
            tables = [each for annotation in found for each in _sections(annotation)] or tables
    keys = sorted({key for table in tables for key in table.model_fields} - ({"name"} if tables == [Stage] else set()))
    close = get_close_matches(str(place[-1]), keys, n=1)
    return f"did you mean {close[0]}?" if close else ", ".join(keys)


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)
