"""Changes of behaviour that no test noticed once, made one at a time: each must fail a test that names it.

    .venv/bin/python benchmarks/unnoticed_changes.py [NUMBER …]

They are of time and recovery, and of what follows from what. Each is made in a copy of the tracked files, in which the
tests of its room run without it (they must pass) and with it. Exit code 1 if a change goes unnoticed, or no longer
fits the code: then the table below is mended.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 600
#: What set-up makes, which tests of the copy need.
MADE = (".venv", "node_modules", "edge_assets/runtime/wheelhouse", "edge_assets/handlers/bundles")


@dataclass(frozen=True)
class Change:
    """A text of a file, what takes its place, and the tests that are to notice it."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


CHANGES = (
    Change(
        "what depends on a stopped HARD dependency runs on",
        "twin/core_device/components/component.py",
        "if any(d.hard and d.name in stopping for d in component.recipe.dependencies):",
        "if False:",
        ("tests/core_device/test_deployment.py",),
    ),
    Change(
        "dependencies of a version that resolution gave up are installed",
        "twin/core_device/deployment/deployer.py",
        "recipes = _in_order(_reachable(chosen, wanted))",
        "recipes = _in_order(chosen)",
        ("tests/core_device/test_deployment.py",),
    ),
    Change(
        "a component's failures are never forgotten",
        "twin/core_device/components/component.py",
        "failed = [] if window_s is None else failed",
        "pass",
        ("tests/core_device/test_component.py",),
    ),
    Change(
        "the pauses after a bad model go on with the next pointer",
        "edge_assets/inference/edge_inference/models/store.py",
        "self._back_off.reset()",
        "pass",
        ("tests/edge/test_model_store.py",),
    ),
    Change(
        "a subscription of an IPC client that left goes on",
        "twin/core_device/ipc/server.py",
        "cancel()  # the client left while the subscription was being made",
        "pass",
        ("tests/core_device/test_ipc_server.py", "tests/core_device/test_ipc_client.py"),
    ),
    Change(
        "a deadline's share is taken before its margin",
        "constructs/edge_handlers/service_client.py",
        "share * (context.get_remaining_time_in_millis() / 1000 - MARGIN_S)",
        "share * context.get_remaining_time_in_millis() / 1000 - MARGIN_S",
        ("tests/handlers/test_service_client.py",),
    ),
    Change(
        "an expired token (400) keeps the credentials",
        "edge_assets/inference/edge_inference/s3_objects.py",
        "exc.code in (400, 401, 403)",
        "exc.code in (401, 403)",
        ("tests/edge/test_s3_objects.py",),
    ),
    Change(
        "a file dated in the future grows for ever",
        "edge_assets/inference/edge_inference/files.py",
        "0 <= time.time() - self.path.stat().st_mtime < SETTLE_S",
        "time.time() - self.path.stat().st_mtime < SETTLE_S",
        ("tests/edge/test_file_source.py",),
    ),
    Change(
        "an archive of exactly the size limit is refused",
        "twin/core_device/deployment/artifacts.py",
        "if total > allowed:",
        "if total >= allowed:",
        ("tests/core_device/test_archive.py",),
    ),
)


def passes(folder: Path, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Run tests of a copy, until the first that fails.

    Returns:
        Whether all passed, and the name of the one that did not.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line.removeprefix("FAILED ") for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    return not done.returncode, (failed or [""])[0].split(" - ")[0]


def make(changes: tuple[Change, ...], numbers: Sequence[int] = ()) -> int:
    """Make each change in a copy of the tracked files, and print which test notices it.

    Args:
        changes: The table.
        numbers: Rows of it, 1 the first; all by default.

    Returns:
        How many go unnoticed, or no longer fit the code.
    """
    unnoticed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "copy"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        for name in MADE:
            if (ROOT / name).exists():
                (folder / name).symlink_to((ROOT / name).resolve())
        for number in numbers or range(1, len(changes) + 1):
            change = changes[number - 1]
            file = folder / change.file
            source = file.read_text(encoding="utf-8")
            if source.count(change.old) != 1:
                print(f"{number}. {change.what}: {change.file} must have the text once: mend the table\n  {change.old}")
                unnoticed += 1
                continue
            before, _ = passes(folder, change.tests)
            file.write_text(source.replace(change.old, change.new), encoding="utf-8")
            after, test = passes(folder, change.tests)
            file.write_text(source, encoding="utf-8")
            noticed = before and not after
            unnoticed += not noticed
            verdict = f"noticed by {test}" if noticed else "UNNOTICED" if before else "its tests fail without it, too"
            print(f"{number}. {change.what}: {verdict}", flush=True)
    return unnoticed


def main() -> int:
    """Make the changes of this file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("numbers", nargs="*", metavar="NUMBER", help="rows of the table, 1 the first")
    return int(make(CHANGES, [int(number) for number in parser.parse_args().numbers]) > 0)


if __name__ == "__main__":
    sys.exit(main())
