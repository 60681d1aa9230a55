"""Builds the wheel `edgewright`: the backend that pip and uv call for this folder, by setuptools.

python -m tools.wheel [--out out/wheel]

`config`, `stacks`, `tools` and `twin` are names that others use, too: in the wheel they lie in the package
`edgewright`, and whatever names them is told so. What ships to devices and to Lambda is the same, byte for byte.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from edge_constructs.reproducible_zip import files_below
from tools.set_up import require

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "edgewright"
#: Folders of this repository that lie below the namespace in the wheel.
BELOW = ("config", "stacks", "tools", "twin")
#: Packages whose names nobody else has: they keep them.
BESIDE = {
    "edge_constructs": "constructs/edge_constructs",
    "edge_handlers": "constructs/edge_handlers",
    "edge_rules": "constructs/edge_rules",
    "nucleus_lite": "nucleus_lite",
}
#: What `edgewright <command>` runs; whatever these import comes with them, no other tool does.
COMMANDS = {
    "bill": "tools.bill",
    "bundle": "tools.bundle",
    "doctor": "tools.doctor",
    "model": "tools.model",
    "plan": "tools.plan",
    "setup": "tools.set_up",
    "wheelhouse": "tools.wheelhouse",
}
_ALSO = ("tools.predict", "tools.fleet_page", "tools.offline_deploy", "tools.node")
#: Of a project's folder; `edgewright init` writes them.
_PROJECT_FILES = ("cdk.json", "package.json", "package-lock.json")
_ASSETS = "edge_assets"
#: Made by set-up, or of this repository's own app.
_NO_ASSETS = {("runtime", "wheelhouse"), ("handlers", "bundles"), ("handlers", "functions")}
_STAGES = re.compile(r"fleet/.*|[^/]*\.toml")
#: A wheel's members bear the date of the oldest zip, so that equal sources give equal bytes.
_DATE = "315532800"


class WheelError(Exception):
    """The wheel cannot be built; the text says what is in the way."""


def build_wheel(wheel_directory: str, *_settings: Any, **_more: Any) -> str:
    """Build the wheel; PEP 517, of whose other arguments none is used.

    Args:
        wheel_directory: Gets it.

    Returns:
        The file's name.

    Raises:
        WheelError: A module names a package in a way that cannot be rewritten.
    """
    from setuptools import build_meta

    out = Path(wheel_directory).resolve()
    with tempfile.TemporaryDirectory(prefix="edgewright-wheel-") as made:
        stage = Path(made)
        _write_tree(stage / "src")
        (stage / "pyproject.toml").write_text(project_settings(), encoding="utf-8")
        shutil.copy(ROOT / "README.md", stage)
        shutil.copy(ROOT / "LICENSE", stage)
        date = {"SOURCE_DATE_EPOCH": os.environ.get("SOURCE_DATE_EPOCH", _DATE)}
        # What setuptools takes from its process; its list of copied files is no news.
        with (
            chdir(stage),
            patch.dict(os.environ, date),
            patch.object(sys, "argv", ["setup.py", "--quiet"]),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            return str(build_meta.build_wheel(str(out)))


def build_sdist(*_arguments: Any) -> str:
    """PEP 517 asks for it.

    Raises:
        WheelError: Always: the repository is the source.
    """
    raise WheelError("there is no source distribution: build the wheel of a checkout, python -m tools.wheel")


def project_settings() -> str:
    """The settings for setuptools: this repository's `[project]`, and all that lies in `src`."""
    own, _, _ = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\n[tool.")
    _, _, project = own.partition("[project]")
    return (
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        f"[project]{project}\n"
        '[tool.setuptools.packages.find]\nwhere = ["src"]\nnamespaces = true\n\n'
        '[tool.setuptools.package-data]\n"*" = ["*"]\n'
    )


def _write_tree(target: Path) -> None:
    """Write what the wheel holds into the folder above its packages."""
    files, modules = _sources(), set(_modules())
    rewrite = mover(modules)
    for place, source in files.items():
        file = target / place
        file.parent.mkdir(parents=True, exist_ok=True)
        own = not place.startswith((f"{NAMESPACE}/{_ASSETS}/", "edge_handlers/", f"{NAMESPACE}/template/"))
        if own and source.suffix == ".py":
            try:
                file.write_text(rewrite(source.read_text(encoding="utf-8")), encoding="utf-8")
            except WheelError as exc:
                raise WheelError(f"{source.relative_to(ROOT)}: {exc}") from exc
            shutil.copymode(source, file)
        else:
            shutil.copy(source, file)
    for package in (NAMESPACE, *BESIDE):
        (target / package / "py.typed").touch()


def _sources() -> dict[str, Path]:
    """Place in the wheel to file."""
    tools = needed_tools()
    below = {name: f"{NAMESPACE}/{name}" for name in (*BELOW, _ASSETS)}
    left_out: dict[str, Callable[[str], object]] = {
        "config": lambda name: _STAGES.fullmatch(name),
        "tools": lambda name: name.removesuffix(".py") not in tools,
        _ASSETS: lambda name: tuple(name.split("/")[:2]) in _NO_ASSETS,
    }
    found = {f"{NAMESPACE}/{name}": ROOT / name for name in _PROJECT_FILES}
    for folder, place in {NAMESPACE: NAMESPACE, **below, **{folder: name for name, folder in BESIDE.items()}}.items():
        stays = left_out.get(folder)
        for name, file in files_below(ROOT / folder).items():
            if "__pycache__" not in file.parts and not (stays and stays(name)):
                found[f"{place}/{name}"] = file
    return dict(sorted(found.items()))


def needed_tools() -> set[str]:
    """Names of the modules of `tools` that the wheel's commands import, early or late."""
    needed, open_ones = {"__init__"}, [name.partition(".")[2] for name in (*COMMANDS.values(), *_ALSO)]
    while open_ones:
        name = open_ones.pop()
        if name in needed:
            continue
        needed.add(name)
        for node in ast.walk(ast.parse((ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "tools":
                open_ones += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tools."):
                open_ones.append(str(node.module).split(".")[1])
    return needed


def _modules() -> Iterator[str]:
    """Dotted names of the modules that lie below the namespace in the wheel."""
    for name in BELOW:
        for file in (ROOT / name).rglob("*.py"):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


_COMMAND_LINES = (
    (re.compile(r"python -m twin\b(?!\.)"), f"{NAMESPACE} twin"),
    (re.compile(r"python -m tools\.(" + "|".join(COMMANDS) + r")\b"), rf"{NAMESPACE} \1"),
    (re.compile(r"python -m tools\.predict\b"), f"{NAMESPACE} predict --aws"),
    (re.compile(r"python -m tools\.fleet_page\b"), f"{NAMESPACE} ui --aws"),
    (re.compile(r"\bmake setup\b(?!-)"), f"{NAMESPACE} setup"),
    (re.compile(r"\bmake plan\b(?! \w+=)"), f"{NAMESPACE} plan"),
)


def mover(modules: set[str]) -> Callable[[str], str]:
    """Make a function that writes a module's text as it is in the wheel.

    Args:
        modules: Dotted names that move below the namespace.

    Raises:
        WheelError: By the function: `import twin.x` binds `twin`, which would be another name in the wheel.
    """
    tops = "|".join(sorted({name.partition(".")[0] for name in modules}))
    binding = re.compile(rf"^[ \t]*import ((?:{tops})\b.*)", re.MULTILINE)
    imported = re.compile(rf"^([ \t]*from )(?=(?:{tops})\b[\w.]* import\b)", re.MULTILINE)
    # A module that a process is started with, or that is imported by its name.
    named = re.compile(rf"""(["'])((?:{tops})\.[\w.]+)(?=\1)""")

    def moved(source: str) -> str:
        if found := binding.search(source):
            line = source.count("\n", 0, found.start()) + 1
            raise WheelError(f"line {line}: write from … import …, got import {found[1]}")
        text = imported.sub(rf"\1{NAMESPACE}.", source)
        text = named.sub(lambda at: f"{at[1]}{NAMESPACE}.{at[2]}" if at[2] in modules else at[0], text)
        for pattern, command in _COMMAND_LINES:
            text = pattern.sub(command, text)
        return text

    return moved


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, that of the process by default; returns 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m tools.wheel", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "wheel", help="folder for the wheel")
    options = parser.parse_args(arguments)
    require("python -m tools.wheel", "dev", "setuptools")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        print(options.out / build_wheel(str(options.out)))
    except (WheelError, OSError) as exc:
        print(f"wheel: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
