"""Rules on the wheels that travel to devices, and on the glibc they need: a wheelhouse is an asset with `*.whl`."""

import re
import struct
import threading
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from config.kept_answers import KEPT
from edge_rules.fleet_view import Finding, FleetView, Resource, rule
from edge_rules.recipe_view import Recipe, parts_of

Version = tuple[int, ...]
_VERNEED = 0x6FFFFFFE
_PREFIX = "GLIBC_"


class SharedObjectError(ValueError):
    """A file is no shared object of a 64-bit machine with the lower byte first."""


def needed_glibc(content: bytes) -> Version | None:
    """Find the newest glibc that a shared object asks for.

    Args:
        content: The file's bytes.

    Returns:
        Its version, such as `(2, 28)`; None if it asks for none, as one linked to musl or to nothing.

    Raises:
        SharedObjectError: It is no ELF file of a 64-bit machine, lower byte first, or is cut off.
    """
    if content[:6] != b"\x7fELF\x02\x01":
        raise SharedObjectError(f"a shared object must be ELF, 64 bits, lower byte first, got {content[:6]!r}")
    try:
        return max(_glibc_needs(content), default=None)
    except (struct.error, IndexError) as exc:
        raise SharedObjectError(f"a shared object must be whole: {exc}") from exc


def _glibc_needs(content: bytes) -> Iterator[Version]:
    table, size, count = struct.unpack_from("<Q10xHH", content, 0x28)
    sections = [struct.unpack_from("<IIQQQQIIQQ", content, table + number * size) for number in range(count)]
    for section in sections:
        if section[1] != _VERNEED:
            continue
        strings = sections[section[6]][4]
        need = section[4]
        for _ in range(section[7]):
            _, versions, _, auxiliary, following = struct.unpack_from("<HHIII", content, need)
            place = need + auxiliary
            for _ in range(versions):
                _, _, _, name, next_one = struct.unpack_from("<IHHII", content, place)
                text = content[strings + name : content.index(b"\0", strings + name)].decode()
                # GLIBC_PRIVATE is no version: such an object belongs to one glibc alone.
                if text.startswith(_PREFIX) and text[len(_PREFIX)].isdigit():
                    yield tuple(map(int, text[len(_PREFIX) :].split(".")))
                place += next_one
            need += following


def _is_shared_object(name: str) -> bool:
    return name.endswith(".so") or ".so." in name.rsplit("/", 1)[-1]


#: Who asks for an archive that is being read ahead waits for it, and does not read it again.
_reading: dict[Path, threading.Lock] = defaultdict(threading.Lock)


def glibc_needs(place: Path) -> tuple[tuple[str, Version], ...]:
    """Read all shared objects of a folder or a zip, those in its wheels included.

    Args:
        place: A folder, or an archive; any other file has none.

    Returns:
        Path of the object below it, a wheel's name first where it lies in one, and what it needs; without those that
        need no glibc or are for another kind of machine.
    """
    with _reading[place]:
        return _read(place)


@contextmanager
def read_ahead(places: Sequence[Path]) -> Iterator[None]:
    """Read archives in a thread while the block runs, so that `glibc_needs` has them at once.

    Unpacking a runtime's wheels takes most of a second, and nothing of the interpreter: it goes on while Node works. At
    the block's end no more is begun: a folder keeps the archives of earlier synths, which nobody asks for.

    Args:
        places: Archives; what cannot be read is left to who asks for it.
    """
    ended = threading.Event()

    def read() -> None:
        for place in places:
            if ended.is_set():
                return
            with suppress(Exception):
                glibc_needs(place)

    threading.Thread(target=read, name="read ahead").start()
    try:
        yield
    finally:
        ended.set()


@lru_cache(maxsize=64)
def _read(place: Path) -> tuple[tuple[str, Version], ...]:
    if place.is_dir():
        files = (file for file in sorted(place.rglob("*")) if file.is_file() and _is_shared_object(file.name))
        found = ((str(file.relative_to(place)), _needs(file.read_bytes())) for file in files)
        return tuple((name, needs) for name, needs in found if needs)
    if place.is_file() and zipfile.is_zipfile(place):
        # Unpacking a runtime's wheels takes twenty times as long as their digest.
        kept = KEPT.ask("needed glibc", {"": place}, Path(__file__), lambda: _in_archive(place))
        return tuple((name, tuple(needs)) for name, needs in kept)
    return ()


def _in_archive(place: Path) -> list[tuple[str, Version]]:
    with place.open("rb") as file:
        return list(_in_zip(file, ""))


def _in_zip(file: BinaryIO, before: str) -> Iterator[tuple[str, Version]]:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.endswith(".whl") and archive.getinfo(name).file_size:
                yield from _in_zip(BytesIO(archive.read(name)), f"{name.rsplit('/', 1)[-1]}: ")
            elif _is_shared_object(name) and (needs := _needs(archive.read(name))):
                yield before + name, needs


def _needs(content: bytes) -> Version | None:
    try:
        return needed_glibc(content)
    except SharedObjectError:
        return None


#: The oldest glibc that a device may have: what docs/deploy.md asks for. Amazon Linux 2023 has 2.34, Debian 12 2.36 and
#: Ubuntu 24.04 2.39.
DEVICE_GLIBC: Version = (2, 28)
_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)")


@dataclass(frozen=True)
class Wheelhouse:
    """Wheels in an archive with what they are for.

    Attributes:
        wheels: File names.
        requirements: Logical lines of the lock files in it.
        python: Version of the device's interpreter from its member `target`, empty if it does not say.
        architecture: Of the device, likewise.
    """

    wheels: tuple[str, ...]
    requirements: tuple[str, ...]
    python: str
    architecture: str


@lru_cache(maxsize=16)
def read_wheelhouse(archive: Path) -> Wheelhouse | None:
    """Read the wheelhouse in a zip; None if it holds no wheels."""
    with zipfile.ZipFile(archive) as members:
        names = members.namelist()
        wheels = tuple(name.rsplit("/", 1)[-1] for name in names if name.endswith(".whl"))
        if not wheels:
            return None
        locks = [name for name in names if re.search(r"(^|/)([\w.-]+\.lock|\w*requirements[\w.-]*\.txt)$", name)]
        text = "\n".join(members.read(name).decode() for name in locks)
        python, _, architecture = (members.read("target").decode() if "target" in names else "").strip().partition(" ")
    lines = (line.split(" #")[0].strip() for line in text.replace("\\\n", " ").splitlines())
    return Wheelhouse(wheels, tuple(line for line in lines if line and line[0] not in "#-"), python, architecture)


def wheelhouses(fleet: FleetView) -> Iterator[tuple[Resource, str, Wheelhouse]]:
    """The wheels that recipes bring to devices: the recipe, the place of the artifact in it, and what it holds."""
    for recipe, (place, archive) in parts_of(fleet, Recipe.archives):
        if found := read_wheelhouse(archive):
            yield recipe.resource, place, found


@rule(
    "RequirementPinned",
    "every requirement of a device must be pinned with ==",
    reason="two devices of one deployment run different code",
    fix="pin it, for instance with pip-compile or uv pip compile",
)
def requirements_are_pinned(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, house in wheelhouses(fleet):
        for line in house.requirements:
            if not _PIN.match(line):
                yield Finding(resource, place, line[:60])


@rule(
    "RequirementHashed",
    "every requirement of a device must have a hash",
    reason="a wheel that was exchanged on the way is installed unseen",
    fix="lock with --generate-hashes and install with --require-hashes",
)
def requirements_are_hashed(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, house in wheelhouses(fleet):
        for line in house.requirements:
            if "--hash=sha256:" not in line:
                yield Finding(resource, place, line[:60])


@rule(
    "WheelLocked",
    "every wheel must belong to a locked requirement",
    reason="what nobody pinned travels to devices",
    fix="build the wheelhouse from the lock file",
)
def wheels_are_locked(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, house in wheelhouses(fleet):
        pins = [_PIN.match(line) for line in house.requirements]
        locked = {(_normal(pin.group(1)), pin.group(2)) for pin in pins if pin}
        for wheel in house.wheels:
            name, version = wheel.split("-")[:2]
            if (_normal(name), version) not in locked:
                yield Finding(resource, place, wheel)


@rule(
    "WheelPython",
    "every wheel must be for the device's Python",
    reason="pip on the device finds no matching distribution",
    fix="build the wheelhouse for the stage's runtime.python",
)
def wheels_fit_the_python(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, house in wheelhouses(fleet):
        for wheel in house.wheels:
            if house.python and not fits_python(wheel, house.python):
                yield Finding(resource, place, f"{wheel} for Python {house.python}")


@rule(
    "WheelArchitecture",
    "every wheel must be for the device's architecture",
    reason="pip on the device finds no matching distribution",
    fix="build the wheelhouse for the stage's runtime.architecture",
)
def wheels_fit_the_architecture(fleet: FleetView) -> Iterator[Finding]:
    for resource, place, house in wheelhouses(fleet):
        for wheel in house.wheels:
            platform = wheel.removesuffix(".whl").rsplit("-", 1)[-1]
            if house.architecture and platform != "any" and house.architecture not in platform:
                yield Finding(resource, place, f"{wheel} for {house.architecture}")


@rule(
    "ArtifactGlibc",
    f"no shared object of a device may need a glibc newer than {'.'.join(map(str, DEVICE_GLIBC))}",
    reason="its module cannot be loaded on devices with an older one: version `GLIBC_…' not found",
    fix="take a wheel with an older manylinux tag, or build on an older system",
)
def devices_have_the_glibc(fleet: FleetView) -> Iterator[Finding]:
    for recipe, (place, file) in parts_of(fleet, Recipe.files):
        for name, needs in glibc_needs(file):
            if needs > DEVICE_GLIBC:
                yield Finding(recipe.resource, place, f"{name} needs {'.'.join(map(str, needs))}")


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def fits_python(wheel: str, python: str) -> bool:
    """Tell from a wheel's name whether a Python takes it.

    Args:
        wheel: File name.
        python: Version, such as `3.11`.
    """
    tag, abi = wheel.removesuffix(".whl").split("-")[-3:-1]
    minor = int(python.split(".")[1])
    for each in tag.split("."):
        if each in {"py3", f"py3{minor}", f"cp3{minor}"}:
            return True
        # The stable ABI of an older Python is the one of every later one.
        if abi == "abi3" and (old := re.fullmatch(r"cp3(\d+)", each)) and int(old.group(1)) <= minor:
            return True
    return False


_FUNCTION = "AWS::Lambda::Function"
#: The property of a custom resource that names an archive of wheels which its function imports from.
LOADED = "RuntimeUri"
#: Runtimes on Amazon Linux 2; all newer ones, `provided.al2023` included, are on Amazon Linux 2023.
_AMAZON_LINUX_2 = re.compile(
    r"python3\.([89]|1[01])|nodejs1[0-8]\.x|java(8\.al2|11|17)|ruby(2\.7|3\.2)|dotnet[67]|provided\.al2"
)
_AMAZON_LINUX_2_GLIBC: Version = (2, 26)
_AMAZON_LINUX_2023_GLIBC: Version = (2, 34)


def glibc_of(runtime: str) -> Version:
    """Say which glibc a Lambda runtime has.

    Args:
        runtime: Its name, such as `python3.12`.
    """
    return _AMAZON_LINUX_2_GLIBC if _AMAZON_LINUX_2.fullmatch(runtime) else _AMAZON_LINUX_2023_GLIBC


@rule(
    "FunctionGlibc",
    "no shared object of a function may need a newer glibc than its runtime has",
    reason="Lambda's python3.11 and older run on Amazon Linux 2 (glibc 2.26), newer ones on Amazon Linux 2023 (2.34): "
    "the import fails at the first event",
    fix="give the function a runtime on Amazon Linux 2023, and wheels for its Python",
)
def functions_have_the_glibc(fleet: FleetView) -> Iterator[Finding]:
    for function, archives in _loaded(fleet).items():
        runtime = function.text(function.properties.get("Runtime", ""))
        for archive in archives:
            for name, needs in glibc_needs(archive):
                wheel = name.partition(": ")[0] if ": " in name else ""
                of_another = wheel and (python := _python(runtime)) and not fits_python(wheel, python)
                if needs > glibc_of(runtime) and not of_another:
                    asked, had = (".".join(map(str, each)) for each in (needs, glibc_of(runtime)))
                    yield Finding(function, "Properties/Runtime", f"{name} needs {asked}, {runtime} has {had}")


@rule(
    "FunctionWheel",
    "every package in an archive that a function is given must have a wheel for the function's Python",
    reason="the function finds nothing that it can import at its first event",
    fix="collect the wheels for the function's Python, too",
)
def functions_have_their_wheels(fleet: FleetView) -> Iterator[Finding]:
    for function, archives in _loaded(fleet).items():
        python = _python(function.text(function.properties.get("Runtime", "")))
        for archive in archives:
            house = read_wheelhouse(archive) if python and archive.suffix == ".zip" and archive.is_file() else None
            wheels = house.wheels if house else ()
            fitting = {wheel.split("-")[0] for wheel in wheels if fits_python(wheel, python)}
            for name in sorted({wheel.split("-")[0] for wheel in wheels} - fitting):
                yield Finding(function, "Properties/Runtime", f"no {name} for Python {python}")


def _loaded(fleet: FleetView) -> dict[Resource, list[Path]]:
    """Function to the assets that it may load shared objects from."""
    found: dict[Resource, list[Path]] = {}
    for function in fleet.of_type(_FUNCTION):
        places = [function.text(function.properties.get("Code") or {})]
        for layer in fleet.referenced(function.text(function.properties.get("Layers") or [])):
            places.append(layer.text(layer.properties.get("Content") or {}))
        found[function] = [file for place in places if (file := fleet.asset(place))]
    for resource in fleet.resources:
        # Other properties name archives that are copied or published, which nobody imports from.
        if file := fleet.asset(resource.text(resource.properties.get(LOADED, ""))):
            for function in _behind(fleet, resource.text(resource.properties.get("ServiceToken", ""))):
                found.setdefault(function, []).append(file)
    return {function: list(dict.fromkeys(files)) for function, files in found.items() if files}


def _behind(fleet: FleetView, token: str) -> Iterator[Resource]:
    """The functions behind a service token: those that CDK's framework function calls, or the token's own."""
    for function in fleet.referenced(token):
        variables = (function.properties.get("Environment") or {}).get("Variables") or {}
        called = list(fleet.referenced(function.text(list(variables.values()))))
        yield from (each for each in called or [function] if each.type == _FUNCTION)


def _python(runtime: str) -> str:
    found = re.fullmatch(r"python(3\.\d+)", runtime)
    return found.group(1) if found else ""
