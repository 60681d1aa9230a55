"""Builds the runtime component's artifact: the wheels that a device installs without network.

python -m tools.wheelhouse [--python 3.11] [--arch x86_64|aarch64] [--agent]
                           [--accelerator openvino|cuda|tensorrt] [--compiler]
"""

import argparse
import platform
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from config.edge_server import CPU, WHEELS
from config.loader import ConfigurationError, load_stage, stage_names
from config.places import ASSETS
from edge_constructs.edge_assets import compiler_python, runtime_kind, wheelhouse_of
from edge_constructs.reproducible_zip import sha256_of, write_zip


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


RUNTIME = ASSETS / "runtime"
LOCKS = ("requirements.lock", "installer.lock")
SCRIPTS = ("install.sh", "install_wheels.py")
AGENT_LOCK = "agent.lock"
#: What the function that compiles by ONNX Runtime loads (edge_handlers/onnx_compilation.py).
COMPILER_PACKAGES = ("numpy", "onnxruntime")
ARCHITECTURES = ("x86_64", "aarch64")
#: glibc 2.28 and older: Debian 10, Amazon Linux 2023 and all later ones have it; the newest first.
MANYLINUX = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")
DOWNLOAD_LIMIT_S = 900
_PLAIN = re.compile(rb"^onnxruntime==[^\n]*\n(?:[ \t]+--hash[^\n]*\n?)+", re.MULTILINE)


class WheelhouseError(Exception):
    """The wheels of a target could not be collected."""


@dataclass(frozen=True)
class Target:
    """What the wheels are for: a CPython on a Linux machine.

    Args:
        python: Its version, such as `3.11`.
        architecture: The machine's name as `uname -m` prints it.
        agent: Whether the device serves the Edge Manager agent's clients.
        accelerator: Which build of ONNX Runtime it gets, one of `config.edge_server.WHEELS`, or `cpu`.
    """

    python: str
    architecture: str
    agent: bool = False
    accelerator: str = CPU

    def __post_init__(self) -> None:
        major, _, minor = self.python.partition(".")
        if major != "3" or not minor.isdigit():
            raise ValueError(f"python must be a version such as 3.11, got {self.python!r}")
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"arch must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        if self.accelerator not in (CPU, *WHEELS):
            raise ValueError(f"accelerator must be one of {', '.join((CPU, *WHEELS))}, got {self.accelerator!r}")

    @classmethod
    def here(cls) -> "Target":
        """Describe this interpreter and machine.

        Returns:
            The target for which no emulation is needed.
        """
        machine = {"arm64": "aarch64", "amd64": "x86_64"}.get(platform.machine().lower(), platform.machine())
        return cls(f"{sys.version_info.major}.{sys.version_info.minor}", machine)

    @property
    def name(self) -> str:
        """Name of the target in file names, such as `cp311-x86_64`."""
        return f"cp{self.python.replace('.', '')}-{self.architecture}"

    @property
    def locks(self) -> tuple[str, ...]:
        """Names of the locks whose wheels the target gets."""
        return (*LOCKS, AGENT_LOCK) if self.agent else LOCKS


def archive_path(target: Target, runtime: Path = RUNTIME) -> Path:
    """Say where the artifact of a target lies once it is built.

    Args:
        target: What the wheels are for.
        runtime: Folder of the runtime component's sources.

    Returns:
        Path of the zip; beside it `<name>.sha256` in the format of `sha256sum`.
    """
    kind = runtime_kind(target.python, target.architecture, agent=target.agent, accelerator=target.accelerator)
    return wheelhouse_of(runtime) / f"runtime-{kind}.zip"


def build(target: Target, runtime: Path = RUNTIME) -> Path:
    """Download, verify and archive the wheels, unless the archive is there already and still right.

    Args:
        target: What the wheels are for.
        runtime: Folder with the locks and the scripts.

    Returns:
        Path of the archive: the locks, target, the scripts and wheels/*.whl.

    Raises:
        WheelhouseError: A wheel is missing for the target, has another hash, or the registry cannot be reached.
    """
    archive = archive_path(target, runtime)
    texts = {name: (runtime / name).read_bytes() for name in (*target.locks, *SCRIPTS)}
    if target.accelerator != CPU:
        other = (runtime / WHEELS[target.accelerator].lock).read_bytes()
        texts[LOCKS[0]] = accelerated(texts[LOCKS[0]], other)
    texts["target"] = f"{target.python} {target.architecture}\n".encode()
    if is_current(archive, texts):
        return archive
    wheels = archive.parent / f"wheels-{target.name}"
    wheels.mkdir(parents=True, exist_ok=True)
    locks = [wheels / f"{target.accelerator}-{name}" for name in target.locks]
    for lock, name in zip(locks, target.locks, strict=True):
        lock.write_bytes(texts[name])
    download(target, locks, wheels)
    try:
        chosen = locked_wheels(wheels, read_locks(locks))
    except ValueError as exc:
        raise WheelhouseError(f"{exc}: delete {wheels} and try again") from exc
    digest = write_zip(archive, {**texts, **{f"wheels/{wheel.name}": wheel for wheel in chosen}})
    _sidecar(archive).write_text(f"{digest}  {archive.name}\n")
    return archive


def accelerated(lock: bytes, other: bytes) -> bytes:
    """Put another build of ONNX Runtime into the devices' lock, in place of the plain one: they share their module.

    Args:
        lock: The devices'.
        other: The other build's.

    Raises:
        WheelhouseError: The lock does not pin the plain one.
    """
    text, found = _PLAIN.subn(b"", lock)
    if found != 1:
        raise WheelhouseError(f"{LOCKS[0]} must pin onnxruntime once, got {found} pins")
    return text + other


def build_compiler(target: Target, runtime: Path = RUNTIME) -> Path:
    """Make the archive from which a function compiles models for devices whose Python Lambda has on an old system only.

    Args:
        target: The devices.
        runtime: Folder with the lock.

    Returns:
        Path of the archive: a lock and wheels of numpy and ONNX Runtime for the devices' Python and the function's.

    Raises:
        WheelhouseError: As for `build`.
    """
    targets = [Target(python, target.architecture) for python in (target.python, compiler_python(target.python))]
    pythons = "-".join(each.name.partition("-")[0] for each in targets)
    archive = wheelhouse_of(runtime) / f"compiler-{pythons}-{target.architecture}.zip"
    pins = {name: pin for name, pin in read_lock(runtime / LOCKS[0]).items() if name in COMPILER_PACKAGES}
    lock = "".join(_written(pin) for pin in pins.values()).encode()
    if is_current(archive, {LOCKS[0]: lock}):
        return archive
    wheels = []
    for one in targets:
        folder = archive.parent / f"wheels-{one.name}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"compiler-{LOCKS[0]}"
        file.write_bytes(lock)
        download(one, [file], folder)
        tag = one.name.split("-")[0]
        try:
            wheels += locked_wheels(folder, pins)
        except ValueError as exc:
            raise WheelhouseError(f"{exc}: delete {folder} and try again") from exc
        if wrong := [wheel.name for wheel in wheels[-len(pins) :] if f"-{tag}-" not in wheel.name]:
            raise WheelhouseError(f"{folder} must hold wheels for {tag}, got {', '.join(wrong)}: delete it")
    digest = write_zip(archive, {LOCKS[0]: lock, **{f"wheels/{wheel.name}": wheel for wheel in wheels}})
    _sidecar(archive).write_text(f"{digest}  {archive.name}\n")
    return archive


def _written(pin: Pin) -> str:
    return f"{pin.requirement}" + "".join(f" --hash=sha256:{digest}" for digest in sorted(pin.sha256)) + "\n"


def is_current(archive: Path, texts: dict[str, bytes]) -> bool:
    """Tell whether an archive is complete and made from these sources.

    Args:
        archive: The zip, which need not exist.
        texts: Path in the archive to contents, of all members but the wheels (those follow from the locks).

    Returns:
        False when anything is missing, cut off or different.
    """
    sidecar = _sidecar(archive)
    if not (archive.is_file() and sidecar.is_file()) or sidecar.read_text().split()[:1] != [sha256_of(archive)]:
        return False
    try:
        with zipfile.ZipFile(archive) as members:
            return all(members.read(name) == content for name, content in texts.items())
    except (zipfile.BadZipFile, KeyError):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 built or complete already, 1 with the reason on standard error.
    """
    here = Target.here()
    parser = argparse.ArgumentParser(prog="python -m tools.wheelhouse", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", default=here.python, help="version of the device's Python (default: %(default)s)")
    parser.add_argument("--arch", default=here.architecture, help="x86_64 or aarch64 (default: %(default)s)")
    parser.add_argument("--agent", action="store_true", help="add what the Edge Manager agent's clients need")
    parser.add_argument("--accelerator", default=CPU, help=f"{', '.join(WHEELS)}, or %(default)s, the default")
    parser.add_argument("--compiler", action="store_true", help="what the function needs that compiles for the device")
    parser.add_argument("--all-stages", action="store_true", help="build what each stage's configuration asks for")
    options = parser.parse_args(arguments)
    try:
        targets = stage_targets() if options.all_stages else [_target(options)]
        compiled = compiler_targets() if options.all_stages else targets
        archives = [] if options.compiler and not options.all_stages else [build(target) for target in targets]
        if options.compiler or options.all_stages:
            archives += [build_compiler(each) for each in compiled if compiler_python(each.python) != each.python]
        for archive in archives:
            print(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
    except (ConfigurationError, WheelhouseError, ValueError, OSError) as exc:
        print(f"wheelhouse: {exc}", file=sys.stderr)
        return 1
    return 0


def _target(options: argparse.Namespace) -> Target:
    return Target(options.python, options.arch, options.agent, options.accelerator)


def stage_targets() -> list[Target]:
    """The machines that the stages' configurations name, each once.

    Raises:
        ConfigurationError: A stage's file has mistakes.
    """
    stages = (load_stage(name) for name in stage_names())
    return sorted(
        {
            Target(each.runtime.python, each.runtime.architecture, each.agent.enabled, each.runtime.accelerator)
            for each in stages
        },
        key=str,
    )


def compiler_targets() -> list[Target]:
    """The machines for which a stage compiles a model by ONNX Runtime, each once.

    Raises:
        ConfigurationError: A stage's file has mistakes.
    """
    stages = (load_stage(name) for name in stage_names())
    compiling = (stage for stage in stages if any(model.compiler == "onnxruntime" for model in stage.models))
    return sorted({Target(stage.runtime.python, stage.runtime.architecture) for stage in compiling}, key=str)


def _sidecar(archive: Path) -> Path:
    return archive.with_suffix(".sha256")


def download(target: Target, locks: Iterable[Path], folder: Path) -> None:
    """Fetch the wheels of locks for a target; those that are there already are kept.

    Args:
        target: What the wheels are for.
        locks: Requirement files with hashes.
        folder: Gets the wheels.

    Raises:
        WheelhouseError: A wheel is missing for the target, has another hash, or the registry cannot be reached.
    """
    print(f"wheelhouse: collecting the wheels for {target.name}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--dest", str(folder)]
    command += ["--python-version", target.python, "--implementation", "cp"]
    # The last one is what a wheel built on a device is called.
    for tag in (*MANYLINUX, "linux"):
        command += ["--platform", f"{tag}_{target.architecture}"]
    for lock in locks:
        command += ["--requirement", str(lock)]
    try:
        # pip's progress goes to standard error: standard output is for the archive's path.
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,
            stderr=subprocess.PIPE,
            text=True,
            timeout=DOWNLOAD_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise WheelhouseError(f"the wheels must arrive within {DOWNLOAD_LIMIT_S} s: check the network") from exc
    if result.returncode:
        raise WheelhouseError(_explained(target, result.stderr.strip()))


_NOT_FOUND = re.compile(r"satisfies the requirement (\S+)(?: .*)? \(from versions: (.*?)\)")


#: As the index's page says it, and as the file itself does.
_OTHER_PYTHON = (
    re.compile(r"require a different python version: \S+ Requires-Python (?P<wanted>\S+?)(?:;|\s|$)"),
    re.compile(r"Package '(?P<name>[^']+)' requires a different Python: \S+ not in '(?P<wanted>[^']+)'"),
)


def _explained(target: Target, said: str) -> str:
    """What pip says of a package without a wheel, in words: it names neither the cause nor a way out."""
    found = _NOT_FOUND.search(said)
    for pattern in _OTHER_PYTHON:
        if other := pattern.search(said):
            name = other.groupdict().get("name") or (found[1] if found else "a package")
            return (
                f"{name} is not for Python {target.python} (it wants {other['wanted']}): pin a release that is, or "
                "give the devices another Python (runtime.python)"
            )
    if not found or "Retrying" in said:  # without a network it finds nothing, either
        return f"pip could not collect the wheels for {target.name}:\n{said}"
    name, others = found[1], found[2]
    there = "none at all" if others == "none" else f"only for {others[-100:]}"
    return (
        f"{name} has no wheel for Python {target.python} on {target.architecture} ({there}): see whether the index has "
        "that name and version; if it has, on such a machine with "
        f"glibc 2.28 or older build one by `pip wheel --no-deps --wheel-dir WHEELS {name}`, and add to the lock its "
        "hash (`pip hash`) and a line `--find-links WHEELS`, relative to the lock"
    )


if __name__ == "__main__":
    sys.exit(main())
