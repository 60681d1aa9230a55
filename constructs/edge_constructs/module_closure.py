"""Which modules of a package a few of them need: what ships to a device without the rest."""

import ast
from collections.abc import Iterable
from pathlib import Path


def module_closure(package: Path, modules: Iterable[str]) -> dict[str, Path]:
    """Follow the imports of a package's modules inside the package.

    Args:
        package: The package's folder.
        modules: Names below the package, such as `outbox`.

    Returns:
        Path below the package's parent, such as `edge_inference/outbox.py`, to file; the package's own `__init__.py`
        is always there.

    Raises:
        ValueError: A module is not in the package.
    """
    found: dict[str, Path] = {}
    waiting = ["__init__", *modules]
    while waiting:
        name = waiting.pop()
        file = package / f"{name}.py"
        key = f"{package.name}/{name}.py"
        if key in found:
            continue
        if not file.is_file():
            raise ValueError(f"{package.name} must have a module {name}, got none at {file}")
        found[key] = file
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            waiting += _imported(node, package.name)
    return dict(sorted(found.items()))


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.ImportFrom) and node.module == package:
        return [alias.name for alias in node.names]
    names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    return [name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")]
