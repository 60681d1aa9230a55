"""Installs the wheels beside this file into the environment whose interpreter runs it, without network.

    python install_wheels.py LOCK...    exit code 1, with the reason on standard error, when a lock names a wheel that
                                        is not there, or is another one than the lock's digest says

Each file of `wheels/` is known by its SHA-256 alone: what no lock names is left out.
"""

import hashlib
import re
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
INSTALLER_LOCK = HERE / "installer.lock"
REQUIREMENT = re.compile(r"^([\w.-]+==[^\s\\;]+)[^\n]*\n((?:[ \t]+--hash=sha256:[0-9a-f]{64}[ \t]*\\?\n?)+)", re.M)


class WheelError(Exception):
    """A wheel is missing, or is not the one that was locked."""


def locked(lock: Path, wheels: dict[str, Path]) -> list[Path]:
    """Find the wheels of a lock.

    Args:
        lock: Requirements, each with the digests that its wheel may have.
        wheels: SHA-256 to file.

    Returns:
        One wheel a requirement.

    Raises:
        WheelError: There is none with such a digest, or the lock has no requirement.
    """
    found = []
    for requirement, digests in REQUIREMENT.findall(lock.read_text(encoding="utf-8")):
        chosen = [wheels[digest] for digest in re.findall(r"[0-9a-f]{64}", digests) if digest in wheels]
        if not chosen:
            raise WheelError(
                f"{HERE / 'wheels'} must hold the wheel of {requirement} with a digest of {lock.name}, got none: "
                "the archive is incomplete or damaged, build it again"
            )
        found.append(chosen[0])
    if not found:
        raise WheelError(f"{lock} must hold requirements with their digests, got none")
    return found


def install(wheels: list[Path]) -> None:
    """Install wheels into this interpreter's environment; the installer must be importable.

    Args:
        wheels: Verified files.
    """
    from installer import install as install_wheel
    from installer.destinations import SchemeDictionaryDestination
    from installer.sources import WheelFile

    paths = sysconfig.get_paths()
    scheme = {name: paths[name] for name in ("purelib", "platlib", "scripts", "data")}
    # Nothing is compiled ahead: that would take longer than the little that is ever imported.
    destination = SchemeDictionaryDestination(
        {**scheme, "headers": paths["include"]}, interpreter=sys.executable, script_kind="posix"
    )
    for wheel in wheels:
        with WheelFile.open(wheel) as source:
            install_wheel(source=source, destination=destination, additional_metadata={"INSTALLER": b"installer"})


def main(locks: list[str]) -> None:
    """Verify all wheels, then install those of the locks."""
    try:
        wheels = {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in (HERE / "wheels").glob("*.whl")}
        (installer,) = locked(INSTALLER_LOCK, wheels)
        chosen = [wheel for lock in locks for wheel in locked(Path(lock), wheels)]
        sys.path.insert(0, str(installer))
        install(chosen)
    except (WheelError, OSError) as exc:
        sys.exit(f"runtime: {exc}")


if __name__ == "__main__":
    main(sys.argv[1:])
