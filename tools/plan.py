"""What a change would do to the fleet, without an account.

    python -m tools.plan --base main --stage dev                 two versions of this repository
    python -m tools.plan --before cdk.out.old --after cdk.out    two cloud assemblies

Exit codes: 0 go ahead, 1 no plan could be made, 2 something is removed or replaced that the stage's configuration
does not announce.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from config.delivery import Announced
from config.loader import ConfigurationError, load_stage
from tools.bill import difference
from tools.cloud_assembly import LIMIT_S, ROOT, AssemblyError, read_assembly, synth
from tools.plan_changes import compare
from tools.plan_report import as_markdown, as_text, unannounced

UNANNOUNCED = 2
#: What set-up has made; a checkout of another version uses it, too.
_SHARED = (".venv", "node_modules", "edge_assets/runtime/wheelhouse")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", default="dev", help="stage to plan for (default: %(default)s)")
    parser.add_argument("--base", help="git reference to compare the working tree with")
    parser.add_argument("--before", type=Path, help="cloud assembly before the change")
    parser.add_argument("--after", type=Path, help="cloud assembly after it")
    parser.add_argument("--devices", action="append", default=[], metavar="TARGET=N", help="devices of a target")
    parser.add_argument("--json", type=Path, help="write the plan as JSON there, too")
    parser.add_argument("--markdown", type=Path, help="write it as Markdown there, too")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="edgewright-plan-") as folder:
            return _plan(options, Path(folder))
    except (AssemblyError, ConfigurationError, OSError, ValueError) as exc:
        print(f"plan: {exc}", file=sys.stderr)
        return 1


def _plan(options: argparse.Namespace, folder: Path) -> int:
    before, after = _assemblies(options, folder)
    announced = load_stage(options.stage).announced if options.base else _announced(options.stage)
    plan = compare(read_assembly(before), read_assembly(after), _devices(options.devices))
    complaints = unannounced(plan, announced)
    bill = difference(before, after)
    print(as_text(plan, complaints) + bill.text(), end="")
    if options.markdown:
        text = as_markdown(plan, complaints, options.stage) + "\n" + bill.markdown()
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        content = {**dataclasses.asdict(plan), "unannounced": complaints, "bill": bill.as_dict()}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return UNANNOUNCED if complaints else 0


def _announced(stage: str) -> Announced:
    """Announcements for two assemblies, which may be of a stage that this repository does not have."""
    try:
        return load_stage(stage).announced
    except ConfigurationError:
        return Announced()


def _devices(given: Sequence[str]) -> dict[str, int]:
    counts = {}
    for each in given:
        name, _, count = each.rpartition("=")
        if not name or not count.isdigit():
            raise AssemblyError(f"--devices must be TARGET=NUMBER, got {each!r}")
        counts[name] = int(count)
    return counts


def _assemblies(options: argparse.Namespace, folder: Path) -> tuple[Path, Path]:
    if options.before and options.after:
        return options.before, options.after
    if not options.base or options.before or options.after:
        raise AssemblyError("give --base REF, or both --before and --after")
    commit = _git("rev-parse", "--verify", "--quiet", f"{options.base}^{{commit}}", cwd=ROOT)
    if not commit:
        raise AssemblyError(f"--base must be a commit, branch or tag of this repository, got {options.base!r}")
    checkout = folder / "base"
    _git("worktree", "add", "--quiet", "--detach", str(checkout), commit, cwd=ROOT)
    try:
        for shared in _SHARED:
            if (ROOT / shared).exists() and not (checkout / shared).exists():
                (checkout / shared).symlink_to((ROOT / shared).resolve())
        return (
            synth(checkout, options.stage, folder / "before"),
            synth(ROOT, options.stage, folder / "after"),
        )
    finally:
        _git("worktree", "remove", "--force", str(checkout), cwd=ROOT)


def _git(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode and arguments[0] != "rev-parse":
        raise AssemblyError(f"git {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
