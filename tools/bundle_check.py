"""Whether packages still work after trimming: what imported before imports, what was announced before still is."""

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tools.wheelhouse import Target

IMPORT_LIMIT_S = 120
#: Folders that the trimming may take as a whole, and those that hold no modules.
_NO_MODULES = frozenset({"tests", "test", "testing_data", "doc", "docs", "examples", "bin", "__pycache__"})
_SUFFIXES = (".py", ".so")
_IMPORT = "import sys, importlib; sys.path.insert(0, sys.argv[1]); importlib.import_module(sys.argv[2])"
_WHO = "import sys, platform; print('%d.%d' % sys.version_info[:2], platform.machine())"


def find_interpreter(target: Target) -> str | None:
    """Find a Python of a target's version and machine.

    Args:
        target: The device.

    Returns:
        Its path; None where this machine has none.
    """
    if target == Target.here():
        return sys.executable
    path = shutil.which(f"python{target.python}")
    if path is None:
        return None
    # A version manager's stand-in is there for versions that are not, and another machine's may run by emulation.
    try:
        run = subprocess.run([path, "-c", _WHO], capture_output=True, text=True, timeout=IMPORT_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):  # such a stand-in may be for no system at all, or fetch one first
        return None
    return path if run.stdout.split() == [target.python, target.architecture] else None


def modules(folder: Path, package: str = "") -> Iterator[str]:
    """List the top-level modules of a packages' folder; those of a namespace package, one level deeper.

    Args:
        folder: The packages' folder, or a namespace package below it.
        package: That package's name with a dot behind it.

    Yields:
        Dotted names.
    """
    for path in sorted(folder.iterdir()):
        name = path.name.partition(".")[0]
        if not name.isidentifier() or (path.is_dir() and name in _NO_MODULES):
            continue
        if path.is_file() and path.suffix in _SUFFIXES and not package:
            yield name
        elif path.is_dir() and path.name == name and any((path / f"__init__{suffix}").exists() for suffix in _SUFFIXES):
            yield package + name
        elif path.is_dir() and path.name == name and any(path.rglob("*.py")):
            yield from modules(path, f"{package}{name}.")


def failing_imports(interpreter: str, folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Import modules, each in an interpreter of its own that knows nothing but them and the standard library.

    Args:
        interpreter: A Python's path.
        folder: The packages' folder.
        names: Dotted names.

    Returns:
        Module to the last line of its error, of those that do not import.
    """
    failed = {}
    for name in names:
        command = [interpreter, "-I", "-S", "-B", "-c", _IMPORT, str(folder), name]
        try:
            run = subprocess.run(
                command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=IMPORT_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            failed[name] = f"no end within {IMPORT_LIMIT_S} s"
            continue
        if run.returncode:
            lines = run.stderr.decode(errors="replace").strip().splitlines()
            failed[name] = lines[-1][:200] if lines else f"ended with {run.returncode}"
    return failed


def announced(folder: Path) -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """What programs are told of a folder's packages by `importlib.metadata`.

    Returns:
        Name to version and entry points.
    """
    return {
        found.name: (found.version, tuple(sorted(map(str, found.entry_points))))
        for found in importlib.metadata.distributions(path=[str(folder)])
    }


class Untrimmed:
    """Packages as their wheels have them.

    Args:
        folder: Where they are unpacked.
        interpreter: Of the device's kind; None to look at what is announced only.
    """

    def __init__(self, folder: Path, interpreter: str | None) -> None:
        self._interpreter = interpreter
        self._announced = announced(folder)
        names = list(modules(folder)) if interpreter else []
        # What needs a package that the runtime or the device brings does not import here, trimmed or not.
        failed = failing_imports(interpreter, folder, names) if interpreter else {}
        #: Modules that import.
        self.imported = tuple(name for name in names if name not in failed)

    def broken_in(self, folder: Path) -> dict[str, str]:
        """Find what the trimming broke.

        Args:
            folder: The same packages, trimmed.

        Returns:
            Module or package to what is wrong with it now.
        """
        found = announced(folder)
        broken = {
            name: f"its version and entry points are {found.get(name, 'gone')}"
            for name, told in self._announced.items()
            if found.get(name) != told
        }
        if self._interpreter:
            broken |= failing_imports(self._interpreter, folder, self.imported)
        return broken
