"""What a function's packages can do without on a device: found, cut, counted; and whether they still work after it."""

import ast
import importlib.metadata
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tools.wheelhouse import Target

STRIP_LIMIT_S = 120
ELF = b"\x7fELF"
PT_LOAD = 1
#: e_machine of the ELF header by the name that `uname -m` prints.
MACHINES = {"x86_64": 62, "aarch64": 183}


@dataclass
class Cut:
    """What a rule took away.

    Args:
        rule: In words.
        files: How many files it took, or made smaller.
        size_bytes: How much smaller that made the whole.
    """

    rule: str
    files: int = 0
    size_bytes: int = 0


def _folder(*names: str) -> Callable[[PurePosixPath], bool]:
    return lambda path: any(part in names for part in path.parts[:-1])


def _suffix(*suffixes: str) -> Callable[[PurePosixPath], bool]:
    return lambda path: path.suffix in suffixes


_INSTALLER_FILES = re.compile(r"(WHEEL|INSTALLER|REQUESTED|direct_url\.json|zip-safe)$")
#: Rule in words to whether it takes a file, by its path below the packages' folder; the first that takes it counts.
#: Licences stay, and so does what programs ask importlib.metadata for: versions, entry points, who brought a module.
RULES: dict[str, Callable[[PurePosixPath], bool]] = {
    "bytecode": lambda path: path.suffix == ".pyc" or "__pycache__" in path.parts,
    "tests": _folder("tests", "test", "testing_data"),
    "headers and static libraries": _suffix(".h", ".hpp", ".hh", ".a", ".lib"),
    "sources of extensions": _suffix(".c", ".cc", ".cpp", ".pyx", ".pxd", ".pxi", ".f", ".f90"),
    "type stubs": lambda path: path.suffix == ".pyi" or path.name == "py.typed",
    "documentation and examples": lambda path: (
        len(path.parts) > 2 and any(p in ("doc", "docs", "examples") for p in path.parts[:-1])
    ),
    "installers' files": lambda path: path.parts[0].endswith(".dist-info") and bool(_INSTALLER_FILES.search(path.name)),
    "scripts": lambda path: path.parts[0] == "bin",
}


#: Those that take whole folders by their name.
_DOCUMENTATION = "documentation and examples"
_STUBS = "type stubs"
_HEADERS, _SOURCES = "headers and static libraries", "sources of extensions"
#: What `strip` takes, by the name that its cut has.
SYMBOLS = "symbols of shared objects"
_FOLDER_RULES = ("tests", _DOCUMENTATION)


def trim(folder: Path, keep: frozenset[str] = frozenset()) -> list[Cut]:
    """Delete what the rules take, but for folders that the rest imports from.

    Args:
        folder: The packages' folder.
        keep: Names of rules to leave out; a package may need its own tests.

    Returns:
        One cut a rule that took something.
    """
    cuts = {rule: Cut(rule) for rule in RULES}
    files = {PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()}
    taken = {path: rule for path in files if (rule := _rule_for(path, keep))}
    imported = imported_cuts(folder, set(taken), files - set(taken), lambda path: taken[path] == _DOCUMENTATION)
    needed = {path for path in imported if taken[path] in _FOLDER_RULES} | set(_read_stubs(folder, taken, files))
    needed |= _named(folder, taken, files)
    for relative in sorted(set(taken) - needed):
        path, cut = folder / relative, cuts[taken[relative]]
        cut.files += 1
        cut.size_bytes += path.stat().st_size
        path.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return [cut for cut in cuts.values() if cut.files]


def _read_stubs(folder: Path, taken: Mapping[PurePosixPath, str], files: set[PurePosixPath]) -> Iterator[PurePosixPath]:
    """Stubs that are read at run time: lazy_loader takes from them what a package has."""
    for path, rule in taken.items():
        module = path.with_suffix(".py")
        if rule == _STUBS and path.suffix == ".pyi" and module in files:
            content = (folder / module).read_bytes()
            if b"attach_stub" in content or b".pyi" in content:
                yield path


_FILE_NAME = re.compile(rb"[\w-]+(?:\.[\w-]+)+")


def _named(folder: Path, taken: Mapping[PurePosixPath, str], files: set[PurePosixPath]) -> set[PurePosixPath]:
    """Data that code which stays names, and so may read: cffi's headers, Cython's templates, a package's examples."""
    data = {
        path for path, rule in taken.items() if path.suffix != ".py" and rule in (*_FOLDER_RULES, _HEADERS, _SOURCES)
    }
    tops, named = {path.parts[0] for path in data}, dict[str, set[bytes]]()
    for path in files - set(taken):
        if path.suffix == ".py" and path.parts[0] in tops:
            named.setdefault(path.parts[0], set()).update(_FILE_NAME.findall((folder / path).read_bytes()))
    return {path for path in data if path.name.encode() in named.get(path.parts[0], ())}


def _rule_for(path: PurePosixPath, keep: frozenset[str]) -> str | None:
    return next((name for name, takes in RULES.items() if name not in keep and takes(path)), None)


def strip(folder: Path, architecture: str, program: str = "strip") -> tuple[Cut, str]:
    """Take the symbols out of shared objects that nobody links against on a device.

    A wheel's libraries were edited by its builder, and some releases of `strip` leave such a file unloadable: a result
    whose segments do not fit the pages is thrown away, and the file stays as it was.

    Args:
        folder: The packages' folder.
        architecture: Of the device; another than this `strip` knows is left alone by it.
        program: The binutils' strip.

    Returns:
        The cut, and a note where something was left alone; empty otherwise.
    """
    cut, kept = Cut(SYMBOLS), 0
    if shutil.which(program) is None:
        return cut, f"{program} is not installed: shared objects keep their symbols"
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or not _is_shared_object(path, architecture):
            continue
        stripped = path.with_name(f"{path.name}.stripped")
        command = [program, "--strip-unneeded", "-o", str(stripped), str(path)]
        try:
            managed = not subprocess.run(command, capture_output=True, timeout=STRIP_LIMIT_S, check=False).returncode
        except subprocess.TimeoutExpired:
            managed = False
        saved = path.stat().st_size - stripped.stat().st_size if stripped.exists() else 0
        if managed and saved > 0 and loadable(stripped):
            stripped.chmod(path.stat().st_mode & 0o777)
            stripped.replace(path)
            cut.files += 1
            cut.size_bytes += saved
        else:
            stripped.unlink(missing_ok=True)
            kept += not managed or saved > 0
    return cut, f"{kept} shared objects were left as they are: {program} does not manage them" if kept else ""


def loadable(path: Path) -> bool:
    """Tell whether a 64-bit little-endian ELF file's segments lie where a loader can map them.

    Args:
        path: The file.

    Returns:
        Whether each loaded segment's offset and address agree modulo its alignment (ELF specification, part 1).
    """
    content = path.read_bytes()
    if content[:6] != ELF + b"\x02\x01":
        return False
    (table,) = struct.unpack_from("<Q", content, 32)
    entry_bytes, entries = struct.unpack_from("<HH", content, 54)
    for number in range(entries):
        kind, _, offset, address, _, in_file, _, alignment = struct.unpack_from(
            "<IIQQQQQQ", content, table + number * entry_bytes
        )
        if kind == PT_LOAD and (
            offset % max(alignment, 1) != address % max(alignment, 1) or offset + in_file > len(content)
        ):
            return False
    return True


def _is_shared_object(path: Path, architecture: str) -> bool:
    with path.open("rb") as stream:
        header = stream.read(20)
    return len(header) == 20 and header[:4] == ELF and struct.unpack_from("<H", header, 18)[0] == MACHINES[architecture]


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
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # a template, for another Python, or too deep
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
