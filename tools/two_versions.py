"""Two versions of a stage: as it is deployed, and as a change would have it; from commits or from assemblies."""

import argparse
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.loader import load_stage, stage_names
from config.operations import Announced
from tools.cloud_assembly import LIMIT_S, NOTHING, ROOT, Assembly, AssemblyError, read_named, synth

#: What set-up has made; a checkout of another version uses it, too.
_SHARED = (".venv", ".edgewright", "node_modules", "edge_assets/runtime/wheelhouse", "edge_assets/handlers/bundles")


@dataclass(frozen=True)
class Change:
    """Two assemblies, and what the repository says of them.

    Attributes:
        before: What is deployed.
        after: What would be.
        announced: What the stage's file announces.
        destroy: The command that takes away what is deployed.
    """

    before: Assembly
    after: Assembly
    announced: Announced
    destroy: str


@contextmanager
def a_stop_interrupts() -> Iterator[None]:
    """Make a stop of a job runner an interrupt like Ctrl-C: nothing is left. What nohup has started goes on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, signal.default_int_handler)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what names the two versions to a command line."""
    parser.add_argument("--base", help="git reference to compare the working tree with, such as main")
    parser.add_argument("--before", type=Path, help="cloud assembly before the change")
    parser.add_argument("--after", type=Path, help="cloud assembly after it")


def read_change(
    options: argparse.Namespace,
    stage: str,
    folder: Path,
    say: Callable[[str], None],
    look: Callable[[Path, Path], None] = lambda _base, _tree: None,
) -> Change:
    """Read the two versions that a command line names.

    Args:
        options: With those of `add_options`.
        stage: The stage.
        folder: An empty one; assemblies that are made lie in it as long as they are read.
        say: Told what goes on.
        look: Called with the base's checkout and the working tree while both are there; not between two assemblies.

    Raises:
        AssemblyError: One is missing, cannot be made or cannot be read.
    """
    if options.base and not options.before and not options.after:
        return _of_commits(options.base, stage, folder, say, look)
    if options.base or not options.before or not options.after:
        raise AssemblyError("give --base REF, or both --before and --after")
    # They may be of a stage that this repository does not have.
    announced = load_stage(stage).announced if stage in stage_names() else Announced()
    return Change(
        read_named(options.before, str(options.before)),
        read_named(options.after, str(options.after)),
        announced,
        f"npx cdk destroy --all --app {options.before}",
    )


def _of_commits(
    base: str, stage: str, folder: Path, say: Callable[[str], None], look: Callable[[Path, Path], None]
) -> Change:
    """Compare the working tree with a commit; either may lack the stage."""
    if not _git("rev-parse", "--git-dir"):
        raise AssemblyError(
            f"{ROOT} must be in a git repository: git init, and commit what is deployed; then --base HEAD"
        )
    commit = _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    if not commit:
        raise AssemblyError(f"--base must be a commit, branch or tag of this repository, got {base!r}")
    now, then = stage_names(ROOT / "config"), _stages_of(commit)
    if stage not in {*now, *then}:
        raise AssemblyError(f"--stage must be one of {', '.join(now)}, got {stage!r}")
    announced = load_stage(stage, ROOT / "config").announced if stage in now else Announced()
    # A stage that is new while another one is gone is that one with another name.
    gone = sorted(set(then) - set(now) - {stage})
    former = stage if stage in then else gone[0] if len(gone) == 1 else None
    if stage not in then:
        say(f"{base} has no stage {stage}" + (f", the working tree no {' and no '.join(gone)}" if gone else ""))
    checkout = folder / "base"
    app = checkout / _git("rev-parse", "--show-prefix")  # an app may be a folder of a larger repository
    _git("worktree", "add", "--quiet", "--detach", str(checkout), commit)
    try:
        for shared in _SHARED:
            if app.is_dir() and (ROOT / shared).exists() and not (app / shared).exists():
                (app / shared).symlink_to((ROOT / shared).resolve())
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(_synthesised, app, former, folder / "before", f"the base {base}", say)
            after = pool.submit(
                _synthesised, ROOT, stage if stage in now else None, folder / "after", "the working tree", say
            )
            assemblies = before.result(), after.result()
        look(app, ROOT)
        return Change(*assemblies, announced, f"git switch --detach {base} && npx cdk destroy --all -c stage={former}")
    finally:
        _git("worktree", "remove", "--force", str(checkout))


def _stages_of(commit: str) -> list[str]:
    names = _git("ls-tree", "--name-only", commit, "config/").splitlines()
    return [Path(name).stem for name in names if name.endswith(".toml")]


def _synthesised(app: Path, stage: str | None, out: Path, which: str, say: Callable[[str], None]) -> Assembly:
    if stage is None:
        return NOTHING
    started = time.monotonic()
    say(f"synthesising {stage} of {which}")
    synth(app, stage, out, which=which)
    found = read_named(out, which)
    say(f"synthesised {stage} of {which} in {time.monotonic() - started:.0f} s")
    return found


def _git(*arguments: str) -> str:
    command = f"git {' '.join(arguments[:2])}"
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AssemblyError(f"{command} must end within {LIMIT_S} s in {ROOT}, it did not: try again") from exc
    if done.returncode and arguments[0] != "rev-parse":
        raise AssemblyError(f"{command}: {done.stderr.strip()}")
    return done.stdout.strip()
