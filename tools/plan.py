"""What a change would do to the fleet, without an account.

    python -m tools.plan --base main --stage dev                 two versions of this repository
    python -m tools.plan --before cdk.out.old --after cdk.out    two cloud assemblies

Exit codes: 0 go ahead, 1 no plan could be made, 2 something is removed, moved or replaced that the stage's
configuration does not announce.
"""

import argparse
import dataclasses
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from markdown_it import MarkdownIt

from twin.page.html import page

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from config.delivery import Announced
from config.loader import ConfigurationError, load_stage, stage_names
from tools.bill import difference
from tools.cloud_assembly import (
    LIMIT_S,
    NOTHING,
    ROOT,
    Assembly,
    AssemblyError,
    given_devices,
    read_assembly,
    synth,
)
from tools.plan_changes import compare, left_behind
from tools.plan_models import ModelChange, as_lines, as_section, changed_models
from tools.plan_models import as_markdown as models_as_markdown
from tools.plan_report import as_markdown, as_text, unannounced

UNANNOUNCED = 2
#: What set-up has made; a checkout of another version uses it, too.
_SHARED = (".venv", "node_modules", "edge_assets/runtime/wheelhouse", "edge_assets/handlers/bundles")


@dataclasses.dataclass(frozen=True)
class _Change:
    """Two assemblies, and what the repository says of them.

    Attributes:
        before: What is deployed.
        after: What would be.
        announced: What the stage's file announces.
        destroy: The command that takes away what is deployed.
        models: What those that change say of their inputs; empty between two assemblies, which hold no samples apart.
    """

    before: Assembly
    after: Assembly
    announced: Announced
    destroy: str
    models: Sequence[ModelChange] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", default="dev", help="stage to plan for (default: %(default)s)")
    parser.add_argument("--base", help="git reference to compare the working tree with")
    parser.add_argument("--before", type=Path, help="cloud assembly before the change")
    parser.add_argument("--after", type=Path, help="cloud assembly after it")
    parser.add_argument("--devices", action="append", default=[], metavar="TARGET=N", help="devices of a target")
    captures_help = "captured records and pictures to compare models that change by (default: their own samples)"
    parser.add_argument("--captures", type=Path, metavar="FOLDER", help=captures_help)
    parser.add_argument("--json", type=Path, help="write the plan as JSON there, too")
    parser.add_argument("--markdown", type=Path, help="write it as Markdown there, too")
    parser.add_argument("--html", type=Path, help="write it as a page there, too")
    options = parser.parse_args(arguments)
    try:
        return _plan(options)
    except (AssemblyError, ConfigurationError, OSError, ValueError) as exc:
        print(f"plan: {exc}", file=sys.stderr)
        return 1


def _plan(options: argparse.Namespace) -> int:
    for name in ("json", "markdown", "html"):
        path: Path | None = getattr(options, name)
        if path and not path.parent.is_dir():
            raise AssemblyError(f"--{name} must lie in a folder that exists, got {path}")
    with tempfile.TemporaryDirectory(prefix="edgewright-plan-") as made:
        change = _change(options, Path(made))
        devices = given_devices(options.devices, {**change.before.targets, **change.after.targets})
        plan = compare(change.before, change.after, devices)
        bill = difference(change.before, change.after, left_behind(change.before, change.after), devices)
    complaints = unannounced(plan, change.announced)
    models = "".join(f"{line}\n" for line in as_lines(change.models))
    print(as_text(plan, complaints, change.destroy) + models + bill.text(), end="")
    text = as_markdown(plan, complaints, options.stage, change.destroy) + "\n"
    text += models_as_markdown(change.models) + bill.markdown()
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.html:
        base = options.base or options.before
        lead = f"What deploying this does to the devices that have {base}."
        options.html.write_text(as_page(text, lead, as_section(change.models)), "utf-8")
    if options.json:
        content = {**dataclasses.asdict(plan), "unannounced": complaints, "bill": bill.as_dict()}
        content["models"] = [each.as_dict() for each in change.models]
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return UNANNOUNCED if complaints else 0


def _change(options: argparse.Namespace, folder: Path) -> _Change:
    if options.base and not options.before and not options.after:
        if options.captures and not options.captures.is_dir():
            raise AssemblyError(f"--captures must be a folder, got {options.captures}")
        return _of_commits(options.base, options.stage, folder, options.captures)
    if options.base or not options.before or not options.after:
        raise AssemblyError("give --base REF, or both --before and --after")
    # They may be of a stage that this repository does not have.
    announced = load_stage(options.stage).announced if options.stage in stage_names() else Announced()
    return _Change(
        _read(options.before, str(options.before)),
        _read(options.after, str(options.after)),
        announced,
        f"npx cdk destroy --all --app {options.before}",
    )


def _of_commits(base: str, stage: str, folder: Path, captures: Path | None = None) -> _Change:
    """Compare the working tree with a commit; either may lack the stage."""
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
        _say(f"{base} has no stage {stage}" + (f", the working tree no {' and no '.join(gone)}" if gone else ""))
    checkout = folder / "base"
    _git("worktree", "add", "--quiet", "--detach", str(checkout), commit)
    try:
        for shared in _SHARED:
            if (ROOT / shared).exists() and not (checkout / shared).exists():
                (checkout / shared).symlink_to((ROOT / shared).resolve())
        with ThreadPoolExecutor(2) as pool:
            before = pool.submit(_synthesised, checkout, former, folder / "before", f"the base {base}")
            after = pool.submit(
                _synthesised, ROOT, stage if stage in now else None, folder / "after", "the working tree"
            )
            assemblies = before.result(), after.result()
        listed = [model.folder for model in load_stage(stage, ROOT / "config").models] if stage in now else []
        return _Change(
            *assemblies,
            announced,
            f"git switch --detach {base} && npx cdk destroy --all -c stage={former}",
            changed_models(checkout, ROOT, listed, captures),
        )
    finally:
        _git("worktree", "remove", "--force", str(checkout))


def _stages_of(commit: str) -> list[str]:
    names = _git("ls-tree", "--name-only", commit, "config/").splitlines()
    return [Path(name).stem for name in names if name.endswith(".toml")]


def _synthesised(app: Path, stage: str | None, out: Path, which: str) -> Assembly:
    if stage is None:
        return NOTHING
    started = time.monotonic()
    _say(f"synthesising {stage} of {which}")
    synth(app, stage, out, which=which)
    found = _read(out, which)
    _say(f"synthesised {stage} of {which} in {time.monotonic() - started:.0f} s")
    return found


def _read(folder: Path, which: str) -> Assembly:
    try:
        return read_assembly(folder)
    except (AssemblyError, ValueError) as exc:
        raise AssemblyError(f"{which}: {exc}") from exc


def _say(text: str) -> None:
    """Tell what goes on, apart from the plan itself."""
    print(f"plan: {text}", file=sys.stderr, flush=True)


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    if done.returncode and arguments[0] != "rev-parse":
        raise AssemblyError(f"git {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout.strip()


#: What the Markdown has of HTML; everything else in it is text.
_TAGS = (
    (r"<p>&lt;details&gt;&lt;summary&gt;(.*?)&lt;/summary&gt;</p>", r"<details><summary>\1</summary>"),
    (r"<p>&lt;/details&gt;</p>", "</details>"),
    (r"&lt;sub&gt;(.*?)&lt;/sub&gt;", r"<small>\1</small>"),
    (r"<table>", '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'),
    (r"</table>", "</table></div>"),
)


def as_page(markdown: str, lead: str, pictures: str = "") -> str:
    """Write a plan as a page.

    Args:
        markdown: The comment of the pull request, bill included.
        lead: What is compared with what.
        pictures: Those that changed their label, as HTML; none by default.
    """
    title, _, text = markdown.partition("\n")
    # A tag ends a block on GitHub, and a block of HTML needs an empty line before Markdown goes on.
    text = text.replace("> [!CAUTION]", "> **Not announced:**\n>").replace("```\n</details>", "```\n\n</details>\n")
    content = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for pattern, tag in _TAGS:
        content = re.sub(pattern, tag, content, flags=re.DOTALL)
    shown = [("Pictures that changed their label", pictures)] if pictures else []
    return page(title.lstrip("# "), lead, [("", content), *shown])


if __name__ == "__main__":
    sys.exit(main())
