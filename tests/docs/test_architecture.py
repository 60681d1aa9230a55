"""docs/architecture.md against the tree: what it names is there, no import goes up a floor, none in a circle."""

import ast
import re
from collections.abc import Collection, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
#: Where a path in the page may begin.
BASES = ("", "constructs", "edge_assets/inference", "edge_assets/handlers", "twin/cloud/greengrass")
FLOORS = {
    "edgewright": 4,
    "stacks": 4,
    "tools": 4,
    "edge_constructs": 3,
    "edge_rules": 3,
    "twin": 3,
    "config": 2,
    "edge_handlers": 2,
    "edge_component": 1,
    "edge_inference": 1,
    "v1_handler": 1,
    "nucleus_lite": 1,
}
FOLDERS = {
    **{name: ROOT / name for name in ("edgewright", "stacks", "tools", "twin", "config", "nucleus_lite")},
    **{name: ROOT / "constructs" / name for name in ("edge_constructs", "edge_rules", "edge_handlers")},
    **{name: ROOT / "edge_assets" / "inference" / name for name in ("edge_component", "edge_inference")},
    "v1_handler": ROOT / "edge_assets" / "handlers" / "v1_handler",
}
PATHS = sorted({path for path in re.findall(r"`([\w./-]+)`", PAGE) if "/" in path or path.endswith(".py")})


def test_the_page_names_files() -> None:
    assert len(PATHS) > 40


@pytest.mark.parametrize("path", PATHS)
def test_what_the_page_names_is_there(path: str) -> None:
    if path == "breaks.py":
        assert list((ROOT / "tests").rglob(path))
        return

    assert any((ROOT / base / path).exists() for base in BASES)


def imported(file: Path) -> set[str]:
    """Packages of this repository that a module imports, also late."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found & set(FLOORS)


@pytest.mark.parametrize("room", FLOORS)
def test_nothing_imports_from_a_floor_above_its_own(room: str) -> None:
    files = [file for file in FOLDERS[room].rglob("*.py") if "__pycache__" not in file.parts]

    assert files
    above = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if FLOORS[name] > FLOORS[room]
    }
    assert above == set()


def modules() -> dict[str, Path]:
    """Every module of the rooms by its dotted name."""
    return {
        ".".join((room, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): file
        for room, folder in FOLDERS.items()
        for file in folder.rglob("*.py")
        if "__pycache__" not in file.parts
    }


def needs(module: str, file: Path, known: Collection[str]) -> Iterator[str]:
    """Modules that a module imports, also late: the longest name that is one, of each import."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            origin = ".".join((*above, *([node.module] if node.module else [])))
            names = [f"{origin}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name:
                yield name


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    graph = {name: set(needs(name, file, known)) - {name} for name, file in known.items()}

    assert len(graph) > 250
    assert any(graph.values())
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as exc:
        pytest.fail(f"a circle of imports: {' → '.join(exc.args[1])}")
