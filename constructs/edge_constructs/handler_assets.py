"""The archives of a Greengrass V1 function: its code with what runs it, and the packages bundled for it."""

import shutil
import zipfile
from pathlib import Path

from config.places import ASSETS, BUNDLES, SOURCES
from edge_constructs.edge_assets import COMPONENT, RUN, Archive, MissingAssetError, shipped_code
from edge_constructs.reproducible_zip import files_below, is_leftover, sha256_of, write_zip

HANDLERS = ASSETS / "handlers"
HANDLER_RECIPE = HANDLERS / "recipe.json"
LOCK = "requirements.lock"
#: Where the bundled packages lie in their archive.
FOLDER = "dependencies"
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
