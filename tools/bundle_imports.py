"""What a bundle cannot do without, whatever a rule says: folders from which the rest imports."""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath


def imported_cuts(
    folder: Path, cut: set[PurePosixPath], kept: set[PurePosixPath], whole: Callable[[PurePosixPath], bool]
) -> set[PurePosixPath]:
    """Find what a cut would break: `botocore.docs` is no documentation, some packages import their own tests.

    Args:
        folder: The packages' folder.
        cut: Files to be deleted, below it.
        kept: All others.
        whole: Whether all of a module's folder must stay with it: documentation that is code has data, tests have much.

    Returns:
        Those of `cut` that must stay: modules that a kept one imports when it is imported itself, and what they import.
    """
    modules = {_dotted(path): path for path in cut if path.suffix == ".py"}
    rescued: set[PurePosixPath] = set()
    readers = [path for path in kept if path.suffix == ".py"]
    while readers and modules:
        wanted = {name for path in readers for name in _imports(folder / path, path)}
        found = {modules[name] for name in wanted & modules.keys()}
        folders = {path.parent for path in found if whole(path)}
        more = found | {path for path in cut - rescued if not folders.isdisjoint(path.parents)}
        rescued |= more
        readers = [path for path in more if path.suffix == ".py"]
        modules = {name: path for name, path in modules.items() if path not in rescued}
    return rescued


def _dotted(path: PurePosixPath) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _imports(file: Path, path: PurePosixPath) -> Iterator[str]:
    """Modules that a file imports outside of its functions, each with what it may be a part of."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a template, or for another Python
        return
    package = path.parent.parts
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) + 1 - node.level]) if node.level else []
            base += node.module.split(".") if node.module else []
            yield from _with_parents(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            nodes.extend(ast.iter_child_nodes(node))


def _with_parents(parts: Iterable[str]) -> Iterator[str]:
    name = ""
    for part in parts:
        name = f"{name}.{part}" if name else part
        yield name
