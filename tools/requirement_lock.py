"""Reads hash-pinned requirement files and finds the wheels that they allow."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from edge_constructs.reproducible_zip import sha256_of


@dataclass(frozen=True)
class Pin:
    """One locked requirement.

    Attributes:
        requirement: Name, extras, exact version and marker.
        sha256: Digests that a file of it may have.
    """

    requirement: Requirement
    sha256: frozenset[str]

    @property
    def name(self) -> str:
        """Normalised name of the project."""
        return str(canonicalize_name(self.requirement.name))

    @property
    def version(self) -> str:
        """The version that is pinned."""
        (specifier,) = self.requirement.specifier
        return specifier.version


def read_pins(path: Path) -> list[Pin]:
    """Read a requirement file with hashes.

    Args:
        path: A file as `uv pip compile --generate-hashes` writes it.

    Returns:
        Its requirements in order; one project may be there more than once, for different machines.

    Raises:
        ValueError: A line pins no exact version or has no hash, or the file holds no requirement.
    """
    lines = re.sub(r"(^|\s)#.*$", "", path.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ").splitlines()
    pins = [_pin(line, path) for line in map(str.strip, lines) if line and not line.startswith("-")]
    if not pins:
        raise ValueError(f"a lock must hold requirements such as 'name==1.0 --hash=sha256:…', got none in {path}")
    return pins


def _pin(line: str, path: Path) -> Pin:
    text, *hashes = line.split(" --hash=")
    try:
        requirement = Requirement(text.strip())
    except InvalidRequirement as exc:
        raise ValueError(f"{path}: a line must be a requirement with hashes, got {line[:80]!r}") from exc
    if [each.operator for each in requirement.specifier] != ["=="] or not hashes:
        raise ValueError(f"{path}: every requirement must pin a version by == and have a hash, got {text.strip()!r}")
    if wrong := [each for each in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip())]:
        raise ValueError(f"{path}: a hash of {requirement.name} must be sha256:<64 hex digits>, got {wrong[0]!r}")
    return Pin(requirement, frozenset(each.strip().removeprefix("sha256:") for each in hashes))


def read_lock(path: Path) -> dict[str, Pin]:
    """Read a requirement file in which every project is there once.

    Args:
        path: A file as `read_pins` reads it.

    Returns:
        Normalised project name to pin; the last one wins.

    Raises:
        ValueError: As `read_pins`.
    """
    return {pin.name: pin for pin in read_pins(path)}


def read_locks(paths: Iterable[Path]) -> dict[str, Pin]:
    """Read several requirement files as one.

    Args:
        paths: Files as `read_lock` reads them.

    Returns:
        Normalised project name to pin; the last file wins.
    """
    return {name: pin for path in paths for name, pin in read_lock(path).items()}


def locked_wheels(folder: Path, pins: Mapping[str, Pin]) -> list[Path]:
    """Choose the wheels of a folder that the pins allow, one each.

    Args:
        folder: Downloaded wheels; others that lie there (of an earlier lock) are ignored.
        pins: What is wanted.

    Returns:
        The wheels, sorted by name.

    Raises:
        ValueError: A pin has no wheel with one of its digests in the folder.
    """
    chosen = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        pin = pins.get(str(canonicalize_name(name)))
        if pin and pin.version == version and sha256_of(wheel) in pin.sha256:
            chosen[str(canonicalize_name(name))] = wheel
    if missing := sorted(set(pins) - set(chosen)):
        raise ValueError(
            f"every pin needs a wheel with one of its hashes in {folder}, got none for {', '.join(missing)}"
        )
    return sorted(chosen.values())
