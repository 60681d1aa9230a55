"""Bundles the packages of the Greengrass V1 functions: hash-pinned wheels, unpacked, trimmed, archived.

python -m tools.bundle FUNCTION_FOLDER [--python 3.11] [--arch x86_64|aarch64] [--keep RULE]
python -m tools.bundle --all-stages
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from config.loader import ConfigurationError, load_stage, stage_names
from config.places import BUNDLES, FUNCTIONS
from edge_constructs.edge_assets import DEPENDENCIES, LOCK
from edge_constructs.reproducible_zip import files_below, is_bytecode, sha256_of, write_zip
from tools.bundle_trim import RULES, SYMBOLS, Cut, Untrimmed, find_interpreter, strip, trim
from tools.wheelhouse import ARCHITECTURES, Target, WheelhouseError, download, read_lock

#: All artifacts of a component together, as Greengrass limits them.
LIMIT_BYTES = 2_000_000_000
#: What a Lambda function could have unpacked: beyond it, something is probably along that is not needed.
WARNING_BYTES = 250_000_000
LARGEST = 10
#: Raised with every change of what is taken away: what was bundled before is bundled anew.
FORM = 2


class BundleTooLargeError(Exception):
    """An artifact that Greengrass would refuse; the text names its largest parts."""


@dataclass(frozen=True)
class Report:
    """What became of a function's packages.

    Args:
        before_bytes: Unpacked, before any cut.
        after_bytes: Unpacked, as shipped.
        cuts: What was taken away.
        largest: Part and its bytes, the largest first, ten at most.
        notes: What a person should know.
        form: Of the bundler's rules.
    """

    before_bytes: int
    after_bytes: int
    cuts: tuple[Cut, ...]
    largest: tuple[tuple[str, int], ...]
    notes: tuple[str, ...] = ()
    form: int = FORM

    def text(self) -> str:
        """The report as a table."""
        rows: list[tuple[str, int | None, int]] = [("before", None, self.before_bytes)]
        rows += [(f"- {cut.rule}", cut.files, -cut.size_bytes) for cut in self.cuts]
        rows += [("after", None, self.after_bytes)]
        lines = [f"  {what:<34}{'' if files is None else files:>8}{size / 1e6:>10.1f} MB" for what, files, size in rows]
        lines += [f"  the {len(self.largest)} largest parts:"]
        lines += [f"    {part:<40}{size / 1e6:>10.1f} MB" for part, size in self.largest]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def json(self) -> str:
        """The report as JSON."""
        return json.dumps(asdict(self), indent=2)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def largest_parts(folder: Path) -> tuple[tuple[str, int], ...]:
    """Find what makes the most of a folder.

    Args:
        folder: The packages' folder.

    Returns:
        Part (two levels deep: a package's subpackage or library) and its bytes, the largest first, ten at most.
    """
    parts: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            parts["/".join(path.relative_to(folder).parts[:2])] += path.stat().st_size
    return tuple(sorted(parts.items(), key=lambda item: (-item[1], item[0]))[:LARGEST])


def check_size(what: str, size_bytes: int, largest: Sequence[tuple[str, int]]) -> str | None:
    """Compare a size with the limits.

    Args:
        what: The function.
        size_bytes: Of its artifacts, unpacked.
        largest: See `largest_parts`.

    Returns:
        A warning; None when there is nothing to warn of.

    Raises:
        BundleTooLargeError: It is over the limit.
    """
    named = ", ".join(f"{part} {size / 1e6:.1f} MB" for part, size in largest)
    if size_bytes > LIMIT_BYTES:
        raise BundleTooLargeError(
            f"{what}: a component may have {LIMIT_BYTES / 1e6:.0f} MB, got {size_bytes / 1e6:.1f} MB; "
            f"its largest parts: {named}"
        )
    if size_bytes > WARNING_BYTES:
        return (
            f"{size_bytes / 1e6:.1f} MB is more than the {WARNING_BYTES / 1e6:.0f} MB that a Lambda function could have"
        )
    return None


#: Wheels of what the component puts in front of them anyway.
GIVEN = "greengrasssdk-"


class BundleError(Exception):
    """A function's packages could not be bundled."""


def build(
    function: Path, target: Target, bundles: Path = BUNDLES, keep: frozenset[str] = frozenset()
) -> tuple[Path, Report | None]:
    """Bundle a function's packages, unless that is done already.

    Args:
        function: The function's folder, with a requirements.lock: exact versions and SHA-256 hashes.
        target: The device.
        bundles: Gets `<function>-<target>.zip` and beside it the report as JSON.
        keep: Rules of `tools.bundle_trim` to leave out, besides those that the lock names in a line `# keep: tests, …`;
            with any, it is bundled anew.

    Returns:
        The archive, and the report when it was made now.

    Raises:
        BundleError: The lock is not usable or names a rule that there is not, a wheel is missing for the target, or has
            another hash.
        BundleTooLargeError: Greengrass would refuse it.
    """
    if not function.name.strip("."):  # ".": the archive is named after the folder
        function = function.resolve()
    lock = function / LOCK
    archive = bundles / f"{function.name}-{target.name}.zip"
    if not keep and _is_current(archive, lock):
        return archive, None
    keep |= _kept(function.name, lock)
    bundles.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundles) as temporary:
        wheels, unpacked, folder = (Path(temporary) / name for name in ("wheels", "unpacked", DEPENDENCIES))
        unpacked.mkdir()
        notes = []
        for wheel in _fetch(function.name, lock, target, wheels):
            if wheel.name.startswith(GIVEN):
                notes.append(f"{wheel.name} is left out: the component brings its own greengrasssdk")
            else:
                unpack(wheel, unpacked)
        cuts, told = shrink(unpacked, folder, target, keep)
        size, largest = size_of(folder), largest_parts(folder)
        warning = check_size(function.name, size, largest)
        notes += [*told, *([warning] if warning else [])]
        report = Report(size_of(unpacked), size, tuple(cuts), largest, tuple(notes))
        members = {f"{DEPENDENCIES}/{name}": file for name, file in files_below(folder, left_out=is_bytecode).items()}
        archive.with_suffix(".json").write_text(report.json(), encoding="utf-8")
        write_zip(archive, {**members, LOCK: lock})
    return archive, report


def shrink(unpacked: Path, folder: Path, target: Target, keep: frozenset[str]) -> tuple[list[Cut], list[str]]:
    """Copy packages without what a device does without, and prove that they import as before.

    Args:
        unpacked: The packages as their wheels have them.
        folder: Gets the copy.
        target: The device; where this machine has a Python of its kind, every top-level module is imported.
        keep: Rules to leave out.

    Returns:
        What was taken away, and what a person should know: a rule that broke a package was left out.
    """
    interpreter = find_interpreter(target)
    untrimmed = Untrimmed(unpacked, interpreter)
    cuts, note = _trimmed(unpacked, folder, target, keep)
    notes = [
        note,
        f"{len(untrimmed.imported)} modules import as before"
        if interpreter
        else f"not imported after trimming: no Python {target.python} for {target.architecture} on this machine",
    ]
    broken = untrimmed.broken_in(folder)
    # One rule is to blame, mostly; else nothing is taken.
    culprits = [frozenset({cut.rule}) for cut in cuts] + [frozenset({*RULES, SYMBOLS})]
    for more in culprits if broken else ():
        cuts, note = _trimmed(unpacked, folder, target, keep | more)
        if not untrimmed.broken_in(folder):
            name, error = next(iter(broken.items()))
            rules = ", ".join(sorted(more)) if len(more) == 1 else "every rule"
            notes = [note, f"left out {rules}: {name} would break ({error})", *notes[1:]]
            break
    return cuts, [text for text in notes if text]


def _trimmed(unpacked: Path, folder: Path, target: Target, keep: frozenset[str]) -> tuple[list[Cut], str]:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(unpacked, folder, copy_function=os.link)  # nothing is changed in place
    cuts = trim(folder, keep)
    stripped, note = strip(folder, target.architecture) if SYMBOLS not in keep else (Cut(SYMBOLS), "")
    return cuts + ([stripped] if stripped.files else []), note


def _kept(name: str, lock: Path) -> frozenset[str]:
    """Rules that a lock leaves out for good: on every machine that bundles it."""
    lines = re.findall(r"^# keep:(.*)$", lock.read_text(encoding="utf-8"), re.M) if lock.is_file() else []
    rules = frozenset(rule.strip() for line in lines for rule in line.split(","))
    if unknown := sorted(rules - set(RULES)):
        raise BundleError(f"{name}: {lock} must keep rules of {', '.join(RULES)}, got {', '.join(unknown)}")
    return rules


def _fetch(name: str, lock: Path, target: Target, wheels: Path) -> list[Path]:
    try:
        # One package may be pinned twice, for two kinds of device: pip knows which one is for this target.
        pinned = read_lock(lock)
        download(target, [lock], wheels)
        found = sorted(wheels.glob("*.whl"))
    except (OSError, ValueError, WheelhouseError) as exc:
        raise BundleError(f"{name}: {exc}") from exc
    allowed = set(re.findall(r"sha256:([0-9a-f]{64})", lock.read_text(encoding="utf-8")))
    if wrong := [wheel.name for wheel in found if sha256_of(wheel) not in allowed]:
        raise BundleError(f"{name}: every wheel must have one of the hashes in {lock}, not so {', '.join(wrong)}")
    if not found:
        raise BundleError(f"{name}: {lock} must have packages for {target.name}, got none of {', '.join(pinned)}")
    return found


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a wheel as an installer does, for import only (PEP 427).

    Args:
        wheel: The file, whose digest was verified.
        folder: Gets its packages; scripts and headers of its `.data` folder are left out.

    Raises:
        BundleError: A path leads out of the folder, or a file is there already with other contents.
    """
    with zipfile.ZipFile(wheel) as members:
        for member in members.infolist():
            target = _place(member.filename)
            if member.is_dir() or target is None:
                continue
            if target.is_absolute() or ".." in target.parts:
                raise BundleError(f"{wheel.name}: a path must lie inside the wheel, got {member.filename!r}")
            file, content = folder / target, members.read(member)
            if file.exists() and file.read_bytes() != content:
                raise BundleError(f"{wheel.name}: {target} is in another wheel, too, with other contents")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def _place(name: str) -> PurePosixPath | None:
    """Where a wheel's member goes; None for what no import needs."""
    path = PurePosixPath(name)
    if path.parts and path.parts[0].endswith(".data"):
        return PurePosixPath(*path.parts[2:]) if path.parts[1:2] in (("purelib",), ("platlib",)) else None
    return path


def _is_current(archive: Path, lock: Path) -> bool:
    try:
        report = json.loads(archive.with_suffix(".json").read_text(encoding="utf-8"))
        with zipfile.ZipFile(archive) as members:
            return members.read(LOCK) == lock.read_bytes() and report.get("form") == FORM
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; those of the process by default.

    Returns:
        Exit code: 0 bundled or complete already, 1 with the reason on standard error.
    """
    here = Target.here()
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("function", nargs="?", type=Path, help="folder with the function and its requirements.lock")
    parser.add_argument("--python", default=here.python, help="version of the device's Python (default: %(default)s)")
    parser.add_argument("--arch", default=here.architecture, choices=ARCHITECTURES, help="(default: %(default)s)")
    parser.add_argument("--keep", action="append", default=[], choices=sorted(RULES), help="a rule to leave out")
    parser.add_argument("--all-stages", action="store_true", help="bundle what the stages' configurations ask for")
    options = parser.parse_args(arguments)
    if bool(options.function) == options.all_stages:
        parser.error("either a function's folder or --all-stages must be given")
    try:
        wanted = stage_bundles() if options.all_stages else [(options.function, Target(options.python, options.arch))]
        for function, target in wanted:
            archive, report = build(function, target, keep=frozenset(options.keep))
            print(f"{archive}  {archive.stat().st_size / 1e6:.1f} MB")
            if report:
                print(report.text())
    except BrokenPipeError:  # told where a program's endings are
        raise
    except (BundleError, BundleTooLargeError, ConfigurationError, ValueError, OSError, shutil.Error) as exc:
        print(f"bundle: {exc}", file=sys.stderr)
        return 1
    return 0


def stage_bundles() -> list[tuple[Path, Target]]:
    """The functions with packages that the stages deploy, each once a kind of device.

    Raises:
        ConfigurationError: A stage's file has mistakes.
    """
    stages = [load_stage(name) for name in stage_names()]
    wanted = {
        (FUNCTIONS / handler.folder, Target(stage.runtime.python, stage.runtime.architecture))
        for stage in stages
        for handler in stage.handlers
        if (FUNCTIONS / handler.folder / LOCK).is_file()
    }
    return sorted(wanted, key=str)


if __name__ == "__main__":
    sys.exit(main())
