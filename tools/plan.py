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
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from twin.page.html import page

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from config.loader import ConfigurationError, load_stage, stage_names
from tools.bill import difference
from tools.cloud_assembly import AssemblyError, given_devices
from tools.plan_changes import compare, left_behind
from tools.plan_models import ModelChange, as_lines, as_section, changed_models
from tools.plan_models import as_markdown as models_as_markdown
from tools.plan_report import as_markdown, as_text, unannounced
from tools.two_versions import a_stop_interrupts, add_options, read_change

UNANNOUNCED = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.plan", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--stage", default="dev", help="stage to plan for (default: %(default)s)")
    add_options(parser)
    parser.add_argument("--devices", action="append", default=[], metavar="TARGET=N", help="devices of a target")
    captures_help = "captured records and pictures to compare models that change by (default: their own samples)"
    parser.add_argument("--captures", type=Path, metavar="FOLDER", help=captures_help)
    parser.add_argument("--json", type=Path, help="write the plan as JSON there, too")
    parser.add_argument("--markdown", type=Path, help="write it as Markdown there, too")
    parser.add_argument("--html", type=Path, help="write it as a page there, too")
    options = parser.parse_args(arguments)
    try:
        with a_stop_interrupts():
            return _plan(options)
    except BrokenPipeError:  # told where a program's endings are
        raise
    except (AssemblyError, ConfigurationError, OSError, ValueError) as exc:
        print(f"plan: {exc}", file=sys.stderr)
        return 1


def _plan(options: argparse.Namespace) -> int:
    for name in ("json", "markdown", "html"):
        path: Path | None = getattr(options, name)
        if path and not path.parent.is_dir():
            raise AssemblyError(f"--{name} must lie in a folder that exists, got {path}")
    if options.base and options.captures and not options.captures.is_dir():
        raise AssemblyError(f"--captures must be a folder, got {options.captures}")
    changed: list[ModelChange] = []

    def look(base: Path, tree: Path) -> None:
        now = options.stage in stage_names(tree / "config")
        listed = [model.folder for model in load_stage(options.stage, tree / "config").models] if now else []
        changed.extend(changed_models(base, tree, listed, options.captures))

    with tempfile.TemporaryDirectory(prefix="edgewright-plan-") as made:
        change = read_change(options, options.stage, Path(made), _say, look)
        devices = given_devices(options.devices, {**change.before.targets, **change.after.targets})
        plan = compare(change.before, change.after, devices)
        bill = difference(change.before, change.after, left_behind(change.before, change.after), devices)
    complaints = unannounced(plan, change.announced)
    models = "".join(f"{line}\n" for line in as_lines(changed))
    text = as_markdown(plan, complaints, options.stage, change.destroy) + "\n"
    text += models_as_markdown(changed) + bill.markdown()
    try:
        if options.markdown:
            options.markdown.write_text(text, encoding="utf-8")
        if options.html:
            base = options.base or options.before
            lead = f"What deploying this does to the devices that have {base}."
            options.html.write_text(as_page(text, lead, as_section(changed)), "utf-8")
        if options.json:
            content = {**dataclasses.asdict(plan), "unannounced": complaints, "bill": bill.as_dict()}
            content["models"] = [each.as_dict() for each in changed]
            options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    finally:
        # Last: a reader that goes (`| head`) ends the program.
        print(as_text(plan, complaints, change.destroy) + models + bill.text(), end="")
    return UNANNOUNCED if complaints else 0


def _say(text: str) -> None:
    """Tell what goes on, apart from the plan itself."""
    print(f"plan: {text}", file=sys.stderr, flush=True)


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
