"""What is missing from the locks: what an installer would still have to ask an index for, on each machine."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tools.locks import DIGEST_DIGITS, METADATA, Machine, tag_set
from tools.wheelhouse import Pin, read_pins


@cache
def _environment(machine: Machine, extra: str) -> dict[str, str]:
    """Values of the markers in a requirement (PEP 508)."""
    return {
        "extra": extra,
        "implementation_name": "cpython",
        "implementation_version": f"{machine.python}.0",
        "os_name": "posix",
        "platform_machine": machine.architecture,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": machine.system,
        "platform_version": "",
        "python_full_version": f"{machine.python}.0",
        "python_version": machine.python,
        "sys_platform": machine.system.lower(),
    }


_MACS = ("x86_64", "arm64")
#: Projects that publish nothing for a machine any more; `tools/set_up.py` refuses it before anything is fetched.
NO_WHEEL = frozenset(
    {
        ("onnxruntime", "Darwin", "x86_64"),
        ("torch", "Darwin", "x86_64"),
        ("torchvision", "Darwin", "x86_64"),
        *((name, "Darwin", machine) for name in ("onnxruntime-gpu", "onnxruntime-openvino") for machine in _MACS),
        ("onnxruntime-openvino", "Linux", "aarch64"),
    }
)
#: Nor for a version of CPython, so far.
NO_PYTHON = frozenset({("onnxruntime-openvino", "3.14")})


def unmet(
    locks: Sequence[Path],
    metadata: Mapping[str, Any],
    machine: Machine,
    left_out: Mapping[str, frozenset[str]] | None = None,
) -> Iterator[str]:
    """Find what an installation of locks would still have to ask an index for, or would fail at.

    Args:
        locks: Files that are installed together.
        metadata: What `requirements-metadata.json` holds: `name==version` to requirements and wheels.
        machine: Where.
        left_out: Project to those of its requirements that are left out on purpose.

    Yields:
        One line a fault: what, where, which rule, what to do.
    """
    pins = {pin.name: pin for path in locks for pin in _pins(path) if _applies(pin.requirement, machine)}
    for name, pin in pins.items():
        facts = metadata.get(f"{name}=={pin.version}")
        if facts is None:
            yield f"{name}=={pin.version}: {METADATA} must say what it asks for: run make lock"
            continue
        if not _versions(facts["python"]).contains(f"{machine.python}.0"):
            yield f"{name}=={pin.version}: must install with {machine}, asks for Python {facts['python']}"
        yield from _unmet_files(pin, facts, machine)
        without = (left_out or {}).get(name, frozenset())
        for text in facts["requires"]:
            wanted = _requirement(text)
            if canonicalize_name(wanted.name) in without or not _applies(wanted, machine, pin.requirement.extras):
                continue
            got = pins.get(canonicalize_name(wanted.name))
            if got is None:
                yield f"{name}=={pin.version}: {machine} needs {text!r}, which no lock pins"
            elif not wanted.specifier.contains(got.version, prereleases=True):
                yield f"{name}=={pin.version}: {machine} needs {text!r}, the lock pins {got.version}"
            elif missing := wanted.extras - got.requirement.extras:
                yield (
                    f"{name}=={pin.version}: {machine} needs {text!r}, the lock pins {got.requirement.name} "
                    f"without [{','.join(sorted(missing))}]: lock with --no-strip-extras"
                )


# A lock is checked for many machines, and to parse it takes longest.
_pins = cache(read_pins)
_requirement = cache(Requirement)
_versions = cache(SpecifierSet)


def _applies(requirement: Requirement, machine: Machine, extras: set[str] | None = None) -> bool:
    """Whether a requirement's marker holds, for one of the extras that its package is installed with."""
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate(_environment(machine, extra)) for extra in ("", *(extras or ())))


def _unmet_files(pin: Pin, facts: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    what = f"{pin.name}=={pin.version}"
    digests = {digest[:DIGEST_DIGITS] for digest in pin.sha256}
    fitting = [digest for tag, digest in facts["wheels"].items() if tag_set(tag) & machine.tags]
    known = (pin.name, machine.system, machine.architecture) in NO_WHEEL or (pin.name, machine.python) in NO_PYTHON
    if not fitting and not facts["sdist"] and not known:
        yield f"{what}: must have a file for {machine}, has none"
    if unhashed := sorted(digest for digest in fitting if digest not in digests):
        yield f"{what}: every file for {machine} must have its hash in the lock, not so {', '.join(unhashed)}"
