"""Renews the locks, and records what their packages ask for, so that a test can check them without a network.

python -m tools.locks                  what the .in files ask for, every other version as it is
python -m tools.locks boto3 ruff       the newest of these that fits
python -m tools.locks --all            the newest of everything that fits
"""

import argparse
import io
import json
import re
import ssl
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.parser import HeaderParser
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from packaging.tags import Tag, cpython_tags, mac_platforms
from packaging.tags import compatible_tags as _pure_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from tools.set_up import ENVIRONMENTS, INSTALLER_LOCK

ROOT = Path(__file__).resolve().parents[1]
#: What the packages of all locks ask for, and their wheels: written here, read by tests/unit/test_locks.py.
METADATA = "requirements-metadata.json"
#: Of every environment, in this order: later ones keep to the versions of earlier ones.
LOCKS = (INSTALLER_LOCK, *dict.fromkeys(lock for each in ENVIRONMENTS.values() for lock in each.locks))
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LIMIT_S = 900
_COMPILE = ("pip", "compile", "--quiet", "--universal", "--python-version", PYTHONS[0], "--generate-hashes")
#: An extra that the lock drops is what an installer with hashes stumbles over as soon as there is a newer release.
_LOCK = ("--no-strip-extras", "--allow-unsafe", "--no-header", "--no-emit-index-url", "--no-emit-find-links")


class LockError(Exception):
    """A lock could not be renewed; the text says why."""


@dataclass(frozen=True)
class Machine:
    """Where a lock must install: a CPython on a system.

    Args:
        python: Such as `3.11`.
        system: `Linux` or `Darwin`.
        architecture: As `platform.machine()` gives it there.
    """

    python: str
    system: str
    architecture: str

    def __str__(self) -> str:
        return f"CPython {self.python} on {self.system} {self.architecture}"

    @property
    def tags(self) -> frozenset[Tag]:
        """Tags of the wheels that it takes."""
        return _tags(self)


MACHINES = tuple(
    Machine(python, system, architecture)
    for python in PYTHONS
    for system, architecture in (("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "x86_64"), ("Darwin", "arm64"))
)


@cache
def _tags(machine: Machine) -> frozenset[Tag]:
    version = tuple(map(int, machine.python.split(".")))
    if machine.system == "Darwin":
        platforms = list(mac_platforms((15, 0), machine.architecture))
    else:
        # glibc 2.36 is Debian 12's, the oldest system that brings Python 3.11.
        names = [f"manylinux_2_{minor}" for minor in range(36, 4, -1)] + [
            "manylinux2014",
            "manylinux2010",
            "manylinux1",
        ]
        platforms = [f"{name}_{machine.architecture}" for name in (*names, "linux")]
    pure = _pure_tags(version, f"cp{machine.python.replace('.', '')}", platforms)
    return frozenset([*cpython_tags(version, platforms=platforms, abis=None), *pure])


@cache
def tag_set(text: str) -> frozenset[Tag]:
    """The tags that a wheel's name has in one, such as `py2.py3-none-any`."""
    return parse_wheel_filename(f"x-1-{text}.whl")[3]


#: Digits of a digest that are recorded: the lock has all of them.
DIGEST_DIGITS = 12


def renew(root: Path, packages: Sequence[str], *, everything: bool) -> None:
    """Compile each lock from its .in file and record the packages' metadata.

    Args:
        root: The checkout.
        packages: Projects whose newest fitting version is wanted.
        everything: Whether that is wanted of all.

    Raises:
        LockError: No set of versions fits, or the registry did not answer.
    """
    upgrade = ["--upgrade"] if everything else [f"--upgrade-package={name}" for name in packages]
    for lock in LOCKS:
        print(f"› {lock}", flush=True)
        _uv(root, *_COMPILE, *_LOCK, *upgrade, str(Path(lock).with_suffix(".in")), "-o", lock)
    record(root)


def record(root: Path) -> None:
    """Write what the packages of all locks ask for, and their wheels for the supported machines.

    Raises:
        LockError: The registry did not answer.
    """
    target = root / METADATA
    known = json.loads(target.read_text(encoding="utf-8")) if target.exists() else {}
    found: dict[str, Any] = {}
    certificates = ssl.create_default_context()
    with (
        httpx.Client(timeout=60, follow_redirects=True, verify=certificates) as client,
        tempfile.TemporaryDirectory() as folder,
    ):
        for lock in all_locks(root):
            listing = Path(folder) / "pylock.toml"
            listing.unlink(missing_ok=True)
            _uv(root, *_COMPILE, "--no-deps", "--format", "pylock.toml", str(lock), "-o", str(listing))
            packages = tomllib.loads(listing.read_text(encoding="utf-8")).get("packages", [])
            for package in packages:
                what = f"{canonicalize_name(package['name'])}=={package['version']}"
                if what not in found:
                    found[what] = known.get(what) or _facts(client, package)
    target.write_text(json.dumps(dict(sorted(found.items())), indent=0) + "\n", encoding="utf-8")
    print(f"› {METADATA}: {len(found)} packages", flush=True)


def all_locks(root: Path) -> list[Path]:
    """Every lock of the repository: of this machine's environments, of devices, of functions."""
    return [
        *(root / lock for lock in LOCKS),
        # What set-up packs wheels in has copies of them.
        *sorted(each for each in (root / "edge_assets").glob("**/*.lock") if "wheelhouse" not in each.parts),
    ]


def _facts(client: httpx.Client, package: Mapping[str, Any]) -> dict[str, Any]:
    files = package.get("wheels", [])
    if not files:
        raise LockError(f"{package['name']}=={package['version']}: must have a wheel, its metadata is read from one")
    headers = HeaderParser().parsestr(_metadata(client, min(files, key=lambda file: file.get("size", 0))))
    wheels = {}
    for file in files:
        tag = str(file["url"]).rsplit("/", 1)[-1].removesuffix(".whl").split("-", 2)[2]
        if any(tag_set(tag) & machine.tags for machine in MACHINES):
            wheels[tag] = str(file["hashes"]["sha256"])[:DIGEST_DIGITS]
    return {
        "python": headers.get("Requires-Python", ""),
        "requires": headers.get_all("Requires-Dist", []),
        "wheels": wheels,
        "sdist": "sdist" in package,
    }


def _metadata(client: httpx.Client, file: Mapping[str, Any]) -> str:
    """Metadata of a wheel: the index has them apart (PEP 658), or they are in the file."""
    url = str(file["url"])
    try:
        answer = client.get(f"{url}.metadata")
        if answer.is_success:
            return answer.text
        whole = client.get(url)
        whole.raise_for_status()
    except httpx.HTTPError as exc:
        raise LockError(f"{url.rsplit('/', 1)[-1]}: its metadata cannot be fetched: {exc}") from exc
    with zipfile.ZipFile(io.BytesIO(whole.content)) as wheel:
        (member,) = (name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name))
        return wheel.read(member).decode()


def _uv(root: Path, *arguments: str) -> None:
    command = [str(root / ".tools" / "bin" / "uv"), *arguments]
    called = f"uv {' '.join(arguments[:2])} {arguments[-3]}"
    try:
        done = subprocess.run(
            command, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise LockError(f"{called}: must end within {LIMIT_S} s, it did not: look at the network, try again") from exc
    if done.returncode:
        raise LockError(f"{called}:\n{done.stderr.strip()}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 all renewed, 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tools.locks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", help="projects to bring to their newest fitting version")
    parser.add_argument("--all", action="store_true", help="bring everything to its newest fitting version")
    options = parser.parse_args(arguments)
    try:
        renew(ROOT, options.packages, everything=options.all)
    except (LockError, OSError, ValueError) as exc:
        print(f"locks: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
