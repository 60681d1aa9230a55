"""Rules on what a Lambda function loads: its code, its layers, and what a custom resource gives it as `RuntimeUri`."""

import re
from collections.abc import Iterator
from pathlib import Path

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.rule import Finding, rule
from edge_rules.shared_objects import Version, glibc_needs
from edge_rules.wheel_rules import fits_python, read_wheelhouse

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
