"""The files that ship to devices, as archives ready to publish: components, models, and functions of Greengrass V1."""

import ast
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from config.edge_server import CPU
from config.places import ASSETS, BUNDLES, SOURCES, WHEELHOUSE
from edge_constructs.reproducible_zip import StrangerError, files_below, is_leftover, sha256_of, write_zip

#: Starts every Python component; part of each one's archive.
RUN = ASSETS / "run.sh"
MODEL_RECIPE = ASSETS / "models" / "recipe.json"
RUNTIME_RECIPE = ASSETS / "runtime" / "recipe.json"
INFERENCE_RECIPE = ASSETS / "inference" / "recipe.json"
#: What every Python component is made of, and part of each one's archive.
COMPONENT = ASSETS / "inference" / "edge_component"
EDGE_SERVER = ASSETS / "edge_server"
#: The scripts that come before `user_data.sh`, in their order.
NUCLEUS_SCRIPTS = {
    "classic": ("nucleus_java.sh", "nucleus_classic.sh"),
    "docker": ("nucleus_java.sh", "nucleus_docker.sh"),
    "lite": ("nucleus_lite.sh",),
}


class MissingAssetError(FileNotFoundError):
    """An archive that set-up makes is not there."""


def user_data_script(nucleus: str) -> str:
    """Join the scripts that make an instance a core device.

    Args:
        nucleus: `classic`, `lite` or `docker`.

    Returns:
        A bash script without its settings.
    """
    parts = (*NUCLEUS_SCRIPTS[nucleus], "user_data.sh")
    return "\n".join((EDGE_SERVER / part).read_text(encoding="utf-8") for part in parts)


@dataclass(frozen=True)
class Archive:
    """A file to publish.

    Attributes:
        file: Where it lies.
        sha256: Its digest.
    """

    file: Path
    sha256: str


def runtime_kind(python: str, architecture: str, *, agent: bool, accelerator: str) -> str:
    """Name a kind of device in file names, such as `cp311-x86_64-agent-openvino`."""
    parts = [f"cp{python.replace('.', '')}", architecture, "agent" if agent else "", accelerator]
    return "-".join(part for part in parts if part not in ("", CPU))


def runtime_archive(
    python: str,
    architecture: str,
    folder: Path,
    runtime: Path = ASSETS / "runtime",
    *,
    agent: bool = False,
    accelerator: str = CPU,
) -> Archive:
    """Take the archive of wheels that set-up made for a kind of device.

    Args:
        python: Version of the device's interpreter, such as `3.11`.
        architecture: Of the device, as `uname -m` prints it.
        folder: Gets `runtime.zip`, a hard link where the file system allows.
        runtime: The runtime component's folder.
        agent: Whether the device serves the Edge Manager agent's clients.
        accelerator: For which build of ONNX Runtime; `cpu` for the plain one.

    Returns:
        The archive. Its digest is the one noted when it was made; the copy into the bucket verifies it.

    Raises:
        MissingAssetError: It has not been made.
    """
    kind = runtime_kind(python, architecture, agent=agent, accelerator=accelerator)
    made = wheelhouse_of(runtime) / f"runtime-{kind}.zip"
    what = f"Python {python} on {architecture}{'' if accelerator == CPU else f' with {accelerator}'}"
    return _made_archive(made, what, folder / "runtime.zip")


#: Lambda's Pythons of this version and newer run on Amazon Linux 2023 (glibc 2.34); older ones on Amazon Linux 2
#: (2.26), on which neither ONNX Runtime nor numpy loads.
FUNCTION_PYTHON = "3.12"


def compiler_python(python: str) -> str:
    """Say which Python the function that compiles by ONNX Runtime has.

    Args:
        python: Version of the devices' interpreter, such as `3.11`.

    Returns:
        The devices' own where Lambda has it on a system that can load ONNX Runtime, else the oldest that is.
    """
    return python if int(python.split(".")[1]) >= int(FUNCTION_PYTHON.split(".")[1]) else FUNCTION_PYTHON


def compiler_archive(python: str, architecture: str, folder: Path, runtime: Path = ASSETS / "runtime") -> Archive:
    """Take the archive of wheels from which a function compiles models for a kind of device.

    Args:
        python: Version of the devices' interpreter, such as `3.11`.
        architecture: Of the devices and of the function, as `uname -m` prints it.
        folder: As for `runtime_archive`.
        runtime: The runtime component's folder.

    Returns:
        The devices' own archive if the function has their Python; else one with the same versions for both Pythons:
        the twin runs functions in its own, which is the devices'.

    Raises:
        MissingAssetError: It has not been made.
    """
    if compiler_python(python) == python:
        return runtime_archive(python, architecture, folder, runtime)
    pythons = "-".join(f"cp{each.replace('.', '')}" for each in (python, compiler_python(python)))
    made = wheelhouse_of(runtime) / f"compiler-{pythons}-{architecture}.zip"
    what = f"the compiler's function, Python {compiler_python(python)}, and Python {python} on {architecture}"
    return _made_archive(made, what, folder / "runtime.zip")


def wheelhouse_of(runtime: Path) -> Path:
    """Where set-up leaves the archives of wheels that it makes by the locks of a runtime component's folder."""
    return WHEELHOUSE if runtime == ASSETS / "runtime" else runtime / "wheelhouse"


def _made_archive(made: Path, what: str, target: Path) -> Archive:
    note = made.with_suffix(".sha256")
    if not (made.is_file() and note.is_file()):
        place = made.relative_to(made.parents[3])
        raise MissingAssetError(f"the wheels for {what} are missing at {place}: run make setup")
    if not zipfile.is_zipfile(made):
        place = made.relative_to(made.parents[3])
        raise MissingAssetError(f"the wheels for {what} are damaged at {place}: delete it, then run make setup")
    sha256 = note.read_text(encoding="utf-8").split()[0]
    file = target.parent / sha256 / target.name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.hardlink_to(made)
        except OSError:
            shutil.copyfile(made, file)
    return Archive(file, sha256)


def inference_archive(folder: Path, inference: Path = ASSETS / "inference", *, agent: bool = False) -> Archive:
    """Archive the inference component's code.

    Args:
        folder: Gets `inference.zip`.
        inference: The component's folder.
        agent: Whether the device serves the Edge Manager agent's clients; without it their code stays here.

    Returns:
        The archive; equal code gives equal bytes.
    """
    members = {
        name: code
        for name, code in shipped_code(inference / "edge_inference").items()
        if agent or not name.startswith("edge_inference/agent/")
    }
    file = folder / "inference" / "inference.zip"
    return Archive(file, write_zip(file, {**shipped_code(COMPONENT), **members, "run.sh": RUN}, compress=True))


def shipped_code(package: Path) -> dict[str, bytes]:
    """Read a Python package of ours as it travels to devices: its modules without what only people read.

    Args:
        package: Its folder.

    Returns:
        Path in the archive to content, sorted.

    Raises:
        StrangerError: As `package_files` raises it.
        SyntaxError: A module is no Python.
    """
    return {
        name: bare_python(file.read_text(encoding="utf-8")).encode()
        for name, file in package_files(package).items()
        # A .proto is for who makes clients, and for our own generated module.
        if file.suffix == ".py"
    }


def bare_ahead() -> None:
    """Bare the modules that ship in every stage, so that `inference_archive` has them at once."""
    for package in (COMPONENT, ASSETS / "inference" / "edge_inference"):
        shipped_code(package)


@cache
def bare_python(source: str) -> str:
    """Take docstrings and comments out of a module, a third of what a device would fetch.

    Every statement stays on its line, so a traceback of a device fits the module in the repository.

    Args:
        source: A module whose docstrings are statements on lines of their own.

    Returns:
        A module of as many lines that does the same.

    Raises:
        SyntaxError: It is no Python.
    """
    lines = source.split("\n")
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _documented(node):
            first = node.body[0]
            kept = "" if isinstance(node, ast.Module) or len(node.body) > 1 else "pass"
            lines[first.lineno - 1] = (lines[first.lineno - 1][: first.col_offset] + kept).rstrip()
            for number in range(first.lineno, first.end_lineno or first.lineno):
                lines[number] = ""
    return _TEXT_OR_COMMENT.sub(lambda found: found["text"] or "", "\n".join(lines))


#: A text, which may have a `#` in it, or a comment with the blanks before it; found many times as fast as by tokenize.
_TEXT_OR_COMMENT = re.compile(
    r"""(?P<text>(?P<quote>'{3}|"{3}|'|")(?:\\.|[^\\])*?(?P=quote))|[^\S\n]*#[^\n]*""", re.DOTALL
)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements below it; docstrings are in no expression, of which there are ten times as many."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _statements(child)


def _documented(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


#: What a package of the components consists of.
_CODE = (".py", ".proto")


def package_files(package: Path) -> dict[str, Path]:
    """List a Python package's files as they lie in an archive: below the package's own name.

    Args:
        package: Its folder.

    Returns:
        Path in the archive to file, sorted.

    Raises:
        StrangerError: A file is no code, hidden ones and leftovers of editors aside: it would ship to every device.
    """
    files = files_below(package)
    if strangers := [name for name, file in files.items() if file.suffix not in _CODE]:
        raise StrangerError(
            f"{package}: a package that ships to devices must hold {' and '.join(_CODE)} files, got "
            f"{', '.join(strangers[:5])}: take it away, or add its suffix in edge_constructs/edge_assets.py"
        )
    return {f"{package.name}/{name}": file for name, file in files.items()}


HANDLERS = ASSETS / "handlers"
HANDLER_RECIPE = HANDLERS / "recipe.json"
LOCK = "requirements.lock"
#: Where the bundled packages lie in their archive.
DEPENDENCIES = "dependencies"
#: What tools leave in a folder of code, none of which a device needs.
_TOOLS = frozenset(
    {".git", ".gitignore", ".gitattributes", ".svn", ".hg", ".venv", ".idea", ".vscode", ".ipynb_checkpoints"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox", ".coverage", ".hypothesis", ".editorconfig"}
)


def function_files(function: Path) -> dict[str, Path]:
    """List a function's files; hidden ones belong to it unless a tool left them there.

    Args:
        function: Its folder.

    Returns:
        Path below the folder to file, sorted.

    Raises:
        StrangerError: A name is not UTF-8, or a link leads out of the assets, nowhere or to a folder.
        ValueError: The folder is missing or holds no file.
    """
    return files_below(
        function, left_out=lambda path: is_leftover(path) or not _TOOLS.isdisjoint(path.parts), root=SOURCES
    )


def handler_archive(name: str, function: Path, folder: Path) -> Archive:
    """Archive a function with what runs it.

    Args:
        name: The handler's name.
        function: The function's folder.
        folder: Gets `<name>/handler.zip`.

    Returns:
        The archive; equal code gives equal bytes.

    Raises:
        ValueError: The function's folder is missing or empty.
    """
    members: dict[str, Path | bytes] = {"run.sh": RUN}
    members |= {f"function/{path}": file for path, file in function_files(function).items() if path != LOCK}
    for package in (HANDLERS / "v1_handler", HANDLERS / "shim", COMPONENT):
        members |= shipped_code(package)
    file = folder / "handlers" / name / "handler.zip"
    return Archive(file, write_zip(file, members, compress=True))


def dependencies_archive(
    name: str, function: Path, python: str, architecture: str, folder: Path, bundles: Path = BUNDLES
) -> Archive:
    """Take the packages that set-up bundled for a function.

    Args:
        name: The handler's name.
        function: The function's folder; without a requirements.lock in it there is nothing to bundle.
        python: Version of the device's interpreter, such as `3.11`.
        architecture: Of the device, as `uname -m` prints it.
        folder: Gets `<name>/dependencies.zip`.
        bundles: Where set-up leaves them.

    Returns:
        The archive.

    Raises:
        MissingAssetError: It has not been made, or not from this lock.
    """
    file = folder / "handlers" / name / "dependencies.zip"
    lock = function / LOCK
    if not lock.is_file():
        return Archive(file, write_zip(file, {LOCK: b""}))
    made = bundles / f"{function.name}-cp{python.replace('.', '')}-{architecture}.zip"
    try:
        with zipfile.ZipFile(made) as members:
            current = members.read(LOCK) == lock.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile):
        current = False
    if not current:
        raise MissingAssetError(
            f"the packages of the function {function.name} for Python {python} on {architecture} are missing or out of "
            f"date at {made}: run make setup"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        file.hardlink_to(made)
    except OSError:
        shutil.copyfile(made, file)
    return Archive(file, sha256_of(made))
