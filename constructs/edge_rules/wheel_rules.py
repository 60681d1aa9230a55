"""Rules on the wheels that travel to devices: an asset with `*.whl` members is a wheelhouse."""

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import PLACE, recipes
from edge_rules.rule import Finding, rule
from edge_rules.shared_objects import Version, glibc_needs

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
    for recipe in recipes(fleet):
        for place, artifact in recipe.artifacts():
            file = fleet.asset(str(artifact.get("Uri", "")))
            found = read_wheelhouse(file) if file and file.suffix == ".zip" and file.is_file() else None
            if found:
                yield recipe.resource, place or PLACE, found


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
    for recipe in recipes(fleet):
        for place, artifact in recipe.artifacts():
            file = fleet.asset(str(artifact.get("Uri", "")))
            for name, needs in glibc_needs(file) if file else ():
                if needs > DEVICE_GLIBC:
                    yield Finding(recipe.resource, place or PLACE, f"{name} needs {'.'.join(map(str, needs))}")


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
