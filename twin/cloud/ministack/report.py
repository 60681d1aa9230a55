"""How the installed MiniStack fits: the ledger, and the names that the twin's modules read or call besides.

The latter are found in the modules' source: they can go missing as well.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config.places import PACKAGE
from twin.cloud.ministack.patches import LEDGER, Misfit, Patch, release

_PACKAGE = "ministack"


@dataclass(frozen=True)
class Report:
    """The ledger, the release that is installed, and everything that does not fit."""

    patches: tuple[Patch, ...]
    release: str
    misfits: tuple[Misfit, ...]


def take() -> Report:
    """Import every extension, and look at what it declares and uses."""
    misfits: list[Misfit] = []
    try:
        from twin.cloud.server import EXTENSIONS
    except (ImportError, AttributeError) as exc:
        return Report(LEDGER.patches, release(), (Misfit("twin.cloud.server", "importable", repr(exc)), *missing()))
    for name in EXTENSIONS:
        try:
            importlib.import_module(name)
        except (ImportError, AttributeError) as exc:
            misfits.append(Misfit(name, "importable", repr(exc)))
    return Report(LEDGER.patches, release(), (*misfits, *LEDGER.misfits(), *missing()))


def missing(*folders: Path) -> list[Misfit]:
    """The names that MiniStack does not have.

    Args:
        folders: Of Python files, searched with the folders below them; by default the cloud's and the tools'.

    Returns:
        One for each name, with the files that use it.
    """
    users: dict[str, set[str]] = {}
    searched = folders or (PACKAGE / "twin" / "cloud", PACKAGE / "tools")
    for path in sorted(path for folder in searched for path in folder.rglob("*.py")):
        for name in used_names(path.read_text("utf-8")):
            users.setdefault(name, set()).add(path.name)
    return [
        Misfit(name, f"there for {', '.join(sorted(files))}", "nothing")
        for name, files in sorted(users.items())
        if not _exists(name)
    ]


def used_names(source: str) -> Iterator[str]:
    """Names below the package that a module imports, or takes from what it imports.

    Args:
        source: The module's text.
    """
    tree = ast.parse(source)
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == _PACKAGE:
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}".removeprefix(f"{_PACKAGE}.")
    yield from imported.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported:
            yield f"{imported[node.value.id]}.{node.attr}"


def _exists(name: str) -> bool:
    module, rest = importlib.import_module(_PACKAGE), name.split(".")
    while rest:
        try:
            module = importlib.import_module(f"{module.__name__}.{rest[0]}")
        except ImportError:
            break
        del rest[0]
    value: object = module
    for step in rest:
        if not hasattr(value, step):
            return False
        value = getattr(value, step)
    return True
