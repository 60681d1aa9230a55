"""Whether a Greengrass V1 function can be deployed as it is declared, as far as its files show."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from config.handler import Handler
from edge_constructs.handler_assets import LOCK, function_files
from edge_constructs.handler_imports import missing_imports, told

#: The part of a shared object's name that says for which interpreter it was built, such as `cpython-37m`.
_BUILT_FOR = re.compile(r"\.cpython-(\d)(\d+)m?(?:-[\w-]+)?\.so$")
_REQUIREMENTS = "requirements.txt"
#: V1's own SDK is there without being asked for.
_GIVEN = {"greengrasssdk"}


class HandlerDeclarationError(ValueError):
    """A handler that cannot be deployed as it is declared."""


def check_function(handler: Handler, function: Path, python: str) -> None:
    """Check a declared function's files.

    Args:
        handler: The function as the stage declares it.
        function: Its folder.
        python: Version of the device's interpreter, such as `3.11`.

    Raises:
        HandlerDeclarationError: The module is missing, is not Python 3 or has no such function; packages are asked for
            that would not travel, or lie in the folder and were built for another Python.
    """
    _check_module(handler, function)
    files = function_files(function)
    asked_for = _asked_for(files[_REQUIREMENTS]) if _REQUIREMENTS in files and LOCK not in files else []
    if asked_for:
        raise _error(
            handler,
            f"{_REQUIREMENTS} asks for {', '.join(asked_for)}, and without a {LOCK} no package travels to the "
            f"device: make it by `uv pip compile --generate-hashes --python-version {python} {_REQUIREMENTS} "
            f"-o {LOCK}` and run make setup",
        )
    built = {name: match for name in files if (match := _BUILT_FOR.search(name))}
    foreign = sorted(name for name, match in built.items() if f"{match[1]}.{match[2]}" != python)
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise _error(
            handler,
            f"{foreign[0]}{more} must be built for Python {python}: delete the packages in the function's folder and "
            f"name them in a {LOCK} (docs/v1-handlers.md)",
        )


def check_imports(handler: Handler, function: Path, python: str, provided: Iterable[str]) -> None:
    """Check that all that a function imports will be there.

    Args:
        handler: The function as the stage declares it; its own `provided` counts, too.
        function: Its folder.
        python: Version of the device's interpreter, such as `3.11`.
        provided: Top-level modules that the device has, see `edge_constructs.handler_imports.provided_modules`.

    Raises:
        HandlerDeclarationError: An import is provided by nothing, and the function does not do without it.
    """
    module = handler.handler.rpartition(".")[0]
    if missing := missing_imports(function, module, {*provided, *handler.provided}):
        raise _error(handler, told(missing, python))


def _check_module(handler: Handler, function: Path) -> None:
    dotted, _, name = handler.handler.rpartition(".")
    module = dotted.replace(".", "/")
    file = next((f for f in (function / f"{module}.py", function / module / "__init__.py") if f.is_file()), None)
    if file is None:
        raise _error(handler, f"{handler.handler} must be there, got no {module}.py")
    where = file.relative_to(function).as_posix()
    try:
        tree = ast.parse(file.read_bytes(), filename=where)
    except (SyntaxError, ValueError) as exc:
        line = getattr(exc, "lineno", None)
        raise _error(
            handler, f"{where} must be Python 3: {exc.args[0]}" + (f" in line {line}" if line else "")
        ) from exc
    names = _bound(tree)
    if names is not None and name not in names:
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        raise _error(handler, f"{where} must define {name}, got the functions {', '.join(functions) or '(none)'}")


def _bound(tree: ast.Module) -> set[str] | None:
    """Names that a module gives a value to at any level outside of functions; None where that cannot be told."""
    names: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                if alias.name == "*":
                    return None
                names.add((alias.asname or alias.name).partition(".")[0])
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("globals", "setattr"):
            return None
        nodes.extend(ast.iter_child_nodes(node))
    return names


def _asked_for(requirements: Path) -> list[str]:
    lines = requirements.read_text(encoding="utf-8", errors="replace").splitlines()
    names = [re.split(r"[\s=<>!~;\[#@]", line.strip(), maxsplit=1)[0] for line in lines]
    return [name for name in names if name and name[0] != "-" and name.lower() not in _GIVEN]


def _error(handler: Handler, problem: str) -> HandlerDeclarationError:
    return HandlerDeclarationError(
        f"handlers.{handler.name}: edge_assets/handlers/functions/{handler.folder}: {problem}"
    )
