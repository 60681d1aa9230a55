"""Reads hash-pinned requirement files and finds the wheels that they allow."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_constructs.reproducible_zip import sha256_of

REQUIREMENT = re.compile(
    r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)[^\n]*\n((?:[ \t]+--hash=sha256:[0-9a-f]{64}[ \t]*\\?\n?)+)", re.M
)


@dataclass(frozen=True)
class Pin:
    """One requirement: its exact version and the digests that a file of it may have."""

    version: str
    sha256: frozenset[str]


def read_lock(path: Path) -> dict[str, Pin]:
    """Read a requirement file with hashes.

    Args:
        path: A file as `pip-compile --generate-hashes` writes it.

    Returns:
        Normalised project name to pin.

    Raises:
        ValueError: The file holds no pinned requirement.
    """
    pins = {
        normalise(name): Pin(version, frozenset(re.findall(r"sha256:([0-9a-f]{64})", hashes)))
        for name, version, hashes in REQUIREMENT.findall(path.read_text())
    }
    if not pins:
        raise ValueError(f"a lock must hold requirements such as 'name==1.0 --hash=sha256:…', got none in {path}")
    return pins


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
        pin = pins.get(normalise(name))
        if pin and pin.version == version and sha256_of(wheel) in pin.sha256:
            chosen[normalise(name)] = wheel
    if missing := sorted(set(pins) - set(chosen)):
        raise ValueError(
            f"every pin needs a wheel with one of its hashes in {folder}, got none for {', '.join(missing)}"
        )
    return sorted(chosen.values())


def normalise(name: str) -> str:
    """Bring a project's name into the form in which names are compared (PEP 503).

    Args:
        name: As a file name or a requirement spells it.

    Returns:
        Lower case, with single hyphens.
    """
    return re.sub(r"[-_.]+", "-", name).lower()
