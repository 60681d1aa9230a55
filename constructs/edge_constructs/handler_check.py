"""Whether a Greengrass V1 function can be deployed as it is declared, as far as its files show.

What it imports and nothing on the device provides would fail there with every event.
"""

import ast
import io
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from config.kept_answers import KEPT
from config.routes import Handler
from edge_constructs.edge_assets import COMPONENT, DEPENDENCIES, HANDLERS, LOCK, Archive, function_files

#: What to do about a module that V1 functions often import; docs/migration.md has the same.
_AS_ONNX = "run the model as ONNX with onnxruntime, which the runtime has"
ADVICE = {
    "greengrass_machine_learning_sdk": "V1's ML connectors ended with it: ask a model of the stage by its topic, "
    f"or {_AS_ONNX}",
    "dlr": _AS_ONNX,
    "mxnet": _AS_ONNX,
    "awscam": f"it is part of DeepLens' system: read the camera with OpenCV, and {_AS_ONNX}",
    "mo": f"it is part of DeepLens' system: {_AS_ONNX}",
    "cv2": "name opencv-python-headless in the lock: opencv-python needs libraries of a desktop",
    "picamera": "read the camera with OpenCV, or with picamera2 of the device's system, named in provided",
    "RPi": "name RPi.GPIO in the lock, with a wheel built on a device",
    "serial": "name pyserial in the lock",
    "yaml": "name PyYAML in the lock",
    "pkg_resources": "use importlib.metadata, or name a setuptools that still has it in the lock",
    "ConfigParser": "Python 3 calls it configparser",
    "Queue": "Python 3 calls it queue",
    "StringIO": "Python 3 has it in io",
    "cPickle": "Python 3 calls it pickle",
    "httplib": "Python 3 calls it http.client",
    "thread": "Python 3 calls it _thread; better use threading",
    "urllib2": "Python 3 has it in urllib.request",
    "urlparse": "Python 3 has it in urllib.parse",
    "distutils": "Python 3.12 has lost it: name setuptools in the lock",
    "imp": "Python 3.12 has lost it: use importlib",
}
_ANY = "name its package in the lock, or put it into the folder; where the device has it, name it in provided"
#: Modules that the standard library lost, by the first Python without them (What's New in Python 3.12 and 3.13).
_LOST = {
    (3, 12): "asynchat asyncore distutils imp smtpd",
    (
        3,
        13,
    ): "aifc audioop cgi cgitb chunk crypt imghdr lib2to3 mailcap msilib nis nntplib ossaudiodev pipes sndhdr spwd "
    "sunau telnetlib uu xdrlib",
}
#: What the parser raises; of an expression that is nested too deeply one of the last two.
_UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError)
_OPTIONAL = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
#: Words of a condition under which an import is for another interpreter, machine or reader.
_CONDITIONS = ("version_info", "PY2", "PY3", "TYPE_CHECKING", "platform", "os.name")


@dataclass(frozen=True)
class Import:
    """A module that a file of a function imports.

    Attributes:
        name: Dotted.
        file: Path below the function's folder.
        line: Where.
    """

    name: str
    file: str
    line: int


def missing_imports(function: Path, module: str, provided: Iterable[str]) -> list[Import]:
    """Find what a function imports and nobody provides.

    Imports that a program does without (caught, or for another Python) do not count, nor do those in functions of
    packages that lie in the folder.

    Args:
        function: Its folder.
        module: The handler's module, dotted.
        provided: Top-level modules that the device has.

    Returns:
        The first import of each module, in the order of their names.
    """
    have, found = set(provided), dict[str, Import]()
    waiting, seen, loose = [module], set[str](), set[str]()
    while waiting:
        name = waiting.pop()
        file = _file(function, name)
        if name in seen or file is None:
            continue
        seen.add(name)
        source = file.read_bytes()
        if b"sys.path" in source:  # then modules may lie anywhere in the folder
            loose |= {path.stem for path in function.rglob("*")}
        for each in _imports(source, name, file, function):
            top = each.name.partition(".")[0]
            if _file(function, top) or (function / top).is_dir():
                waiting += [each.name[:at] for at, sign in enumerate(f"{each.name}.") if sign == "."]
            elif top not in have:
                found.setdefault(top, each)
    return [found[top] for top in sorted(set(found) - loose)]


def told(imports: Iterable[Import], python: str) -> str:
    """Say of imports where they are and what to do.

    Args:
        imports: What is missing.
        python: Version of the device's interpreter.
    """
    parts = []
    for each in imports:
        top = each.name.partition(".")[0]
        parts.append(f"{each.file} line {each.line} imports {each.name} ({ADVICE.get(top, _ANY)})")
    head = f"every import must be there for Python {python}, from the SDK's shim, the lock, the runtime or the folder"
    return f"{head}: {'; '.join(parts)}; docs/migration.md#imports"


def provided_modules(python: str, dependencies: Path, runtime: Archive) -> frozenset[str]:
    """List the top-level modules that a function finds besides its own files.

    Args:
        python: Version of the device's interpreter, such as `3.11`.
        dependencies: The archive of the packages bundled for it.
        runtime: The archive of the runtime's wheels.
    """
    shim = {path.stem for path in (HANDLERS / "shim").iterdir()} | {COMPONENT.name, "v1_handler"}
    # The archive of fifty megabytes is read once, then known by its digest.
    wheels = KEPT.ask(f"modules in {runtime.sha256}", {}, Path(__file__), lambda: _in_wheels(runtime))
    return _standard_library(python) | shim | _in_bundle(dependencies) | frozenset(wheels)


def _standard_library(python: str) -> frozenset[str]:
    version = tuple(int(part) for part in python.split("."))
    lost = {since: frozenset(names.split()) for since, names in _LOST.items()}
    return (sys.stdlib_module_names | frozenset().union(*lost.values())) - frozenset().union(
        *(names for since, names in lost.items() if version >= since)
    )


def _in_bundle(archive: Path) -> frozenset[str]:
    with zipfile.ZipFile(archive) as members:
        names = [PurePosixPath(name).parts for name in members.namelist()]
    return _tops(parts[1:] for parts in names if parts[0] == DEPENDENCIES)


@lru_cache(maxsize=8)
def _in_wheels(archive: Archive) -> tuple[str, ...]:
    found: frozenset[str] = frozenset()
    with zipfile.ZipFile(archive.file) as members:
        for name in members.namelist():
            if name.endswith(".whl"):
                with zipfile.ZipFile(io.BytesIO(members.read(name))) as wheel:
                    found |= _tops(PurePosixPath(path).parts for path in wheel.namelist())
    return tuple(sorted(found))


def _tops(paths: Iterable[tuple[str, ...]]) -> frozenset[str]:
    """Modules at the top of a folder: packages by their name, files by theirs up to the first dot."""
    names = (parts[0] if len(parts) > 1 else parts[0].partition(".")[0] for parts in paths if parts)
    return frozenset(name for name in names if name.isidentifier())


def _file(function: Path, name: str) -> Path | None:
    path = function.joinpath(*name.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    if found := next((each for each in candidates if each.is_file()), None):
        return found
    return next(iter(sorted(path.parent.glob(f"{path.name}.*.so"))), None) if path.parent.is_dir() else None


def _imports(source: bytes, name: str, file: Path, function: Path) -> Iterator[Import]:
    if file.suffix == ".so":
        return
    try:
        tree = ast.parse(source)
    except _UNPARSED:  # the handler's own module has been checked; a package may bring templates
        return
    package = name.split(".") if file.stem == "__init__" else name.split(".")[:-1]
    where = file.relative_to(function).as_posix()
    for node in _counting(tree, in_functions=file.parent == function):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, where, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            if base:
                yield Import(".".join(base), where, node.lineno)
            if node.level or function.joinpath(*base).is_dir():
                yield from (Import(".".join([*base, alias.name]), where, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and (dotted := _imported_by_call(node)):
            yield Import(dotted, where, node.lineno)


def _imported_by_call(node: ast.Call) -> str:
    """The module that `importlib.import_module` or `__import__` is told by its name; empty for any other call."""
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    first = node.args[0] if node.args else None
    if called not in ("import_module", "__import__") or not isinstance(first, ast.Constant):
        return ""
    return first.value if isinstance(first.value, str) and not first.value.startswith(".") else ""


def _counting(tree: ast.AST, *, in_functions: bool) -> Iterator[ast.AST]:
    """Nodes of a module that are run whenever it is, or whenever one of its functions is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not in_functions:
            continue
        if isinstance(node, ast.Try) and any(_catches(handler.type) for handler in node.handlers):
            continue
        if isinstance(node, ast.With) and any(_catches(item.context_expr) for item in node.items):
            continue
        if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in _CONDITIONS):
            continue
        yield node
        yield from _counting(node, in_functions=in_functions)


def _catches(node: ast.expr | None) -> bool:
    """Whether an `except` or a `suppress` covers a failing import; a bare one does."""
    if node is None:
        return True
    return any(isinstance(each, ast.Name) and each.id in _OPTIONAL for each in ast.walk(node))


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
        provided: Top-level modules that the device has, see `edge_constructs.handler_check.provided_modules`.

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
    except _UNPARSED as exc:
        line = getattr(exc, "lineno", None)
        problem = exc.args[0] if exc.args else "nested too deeply"
        raise _error(handler, f"{where} must be Python 3: {problem}" + (f" in line {line}" if line else "")) from exc
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
