"""Reads a stage's file and reports every mistake in it at once."""

import tomllib
from pathlib import Path

from pydantic import ValidationError

from config.places import STAGES
from config.roster import RosterError
from config.stage import Stage

FOLDER = STAGES
#: Names nothing that other people use: a deploy that forgot its stage touches neither dev nor prod.
DEFAULT_STAGE = "twin"


class ConfigurationError(Exception):
    """A stage cannot be used as it is written; the text lists every mistake, one a line."""


def stage_names(folder: Path = FOLDER) -> list[str]:
    """List the stages that have a file, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


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
    if name not in known:
        raise ConfigurationError(
            f"stage must be one of {', '.join(known)}, got {name!r}: cdk synth -c stage={known[0]}"
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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"{shown}: must be TOML in UTF-8: {exc}") from exc
    if "name" in values:
        raise ConfigurationError(f"{shown}: name: comes from the file's name, got {values['name']!r}: remove it")
    try:
        stage = Stage.model_validate({"name": name, **values})
        stage.read_lists(folder)
    except ValidationError as exc:
        raise ConfigurationError("\n".join(f"{shown}: {line}" for line in _mistakes(exc))) from exc
    except RosterError as exc:
        raise ConfigurationError("\n".join(f"{shown}: {line}" for line in exc.mistakes)) from exc
    return stage


def _mistakes(error: ValidationError) -> list[str]:
    """Say of each mistake which field breaks which rule with which value."""
    lines = []
    for mistake in error.errors(include_url=False):
        field = ".".join(str(part) for part in mistake["loc"])
        rule = mistake["msg"].removeprefix("Value error, ")
        # A missing field, or a rule about several, has no value of its own: pydantic shows the whole table.
        several = mistake["type"] in ("missing", "value_error") and isinstance(mistake["input"], dict)
        value = "" if several else f", got {mistake['input']!r}"
        # A rule about several may find several mistakes, one a line.
        lines += [f"{field}: {each[0].lower()}{each[1:]}{value}".removeprefix(": ") for each in rule.splitlines()]
    return lines
