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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import takewhile
from pathlib import Path

from markdown_it import MarkdownIt

from config.loader import ConfigurationError, load_stage, stage_names
from config.operations import Announced
from nucleus_lite.deployment import COMPONENTS
from tools.bill import difference
from tools.cloud_assembly import AssemblyError, Stack, given_devices
from tools.plan_changes import Plan, StayingStack, TargetPlan, compare, left_behind
from tools.plan_models import ModelChange, as_lines, as_section, changed_models
from tools.plan_models import as_markdown as models_as_markdown
from tools.two_versions import a_stop_interrupts, add_options, read_change
from twin.page.html import page

_SECURITY_SHOWN = 40
_NAMES_SHOWN = 5
_DEVICES_SHOWN = 10


def unannounced(plan: Plan, announced: Announced) -> list[str]:
    """Name what a plan may not do without being announced in the stage's configuration.

    Args:
        plan: The plan.
        announced: The stage's `[announced]` table.

    Returns:
        A sentence each; empty when the change may go ahead.
    """
    has = announced.has
    found = [*_unannounced_devices(plan, announced), *_unannounced_stacks(plan, announced)]
    for target in plan.targets:
        if target.state == "removed" and not has(target.name, announced.removals):
            found.append(f"target {target.name} loses its deployment: list it in announced.removals")
        for name in target.removed:
            if target.state != "removed" and not has(name, announced.removals):
                found.append(f"this uninstalls {name} from {target.name}: list {name} in announced.removals")
    found += [
        f"a device of {target.name} has {target.places} components while it updates, what it removes included; nucleus "
        f"lite reports at most {COMPONENTS.value}: remove first, and add in a second deploy"
        for target in plan.targets
        if target.places > COMPONENTS.value
    ]
    found += [
        f"{name} changes its content but not its version: devices that have it never get the change"
        for name in plan.reused_versions
    ]
    found += [
        f"{each.resource} ({each.type}) is {each.kind}{f' because of {each.because}' if each.because else ''}: "
        f"list {each.resource} in announced.replacements"
        for each in plan.replaced
        if not each.expected and not has(each.resource, announced.replacements)
    ]
    return found


def _unannounced_devices(plan: Plan, announced: Announced) -> Iterator[str]:
    devices = plan.devices
    if left := [name for name in devices.left if not announced.has(name, announced.leaving)]:
        said = f"{_count(left, 'device')} {_verb(left, 'leave')} ({_some(left)})"
        yield f"{said}: list {_them(left)} in announced.leaving"
    if moved := [name for name in devices.moved if not announced.has(name, announced.moving)]:
        rings = {devices.moved[name][1] for name in moved}
        where = f"to ring {rings.pop()}" if len(rings) == 1 else "to other rings"
        said = f"{_count(moved, 'device')} {_verb(moved, 'move')} {where} ({_some(moved)})"
        yield f"{said}: list {_them(moved)} in announced.moving"
    if devices.contested:
        them = _them(devices.contested)
        yield (
            f"{_count(devices.contested, 'device')} ({_some(devices.contested)}) must be in one list, but a stack that "
            f"stays has registered {them}, too: the deploy fails until the list there is without {them}"
        )


def _unannounced_stacks(plan: Plan, announced: Announced) -> Iterator[str]:
    staying = [each.name for each in plan.stacks.staying if not announced.has(each.name, announced.removals)]
    if staying:
        listed = staying[0] if len(staying) == 1 else _pattern(staying)
        said = f"{_count(staying, 'stack')} {_verb(staying, 'stay')} behind ({_some(staying)})"
        gone = not plan.stacks.added and not plan.stacks.kept
        yield f"{said}: {'no file is left to announce it' if gone else f'list {listed} in announced.removals'}"


def as_text(plan: Plan, complaints: list[str], destroy: str) -> str:
    """Write a plan for a terminal.

    Args:
        plan: The plan.
        complaints: What `unannounced` says of it.
        destroy: The command that takes all of a stage away that the new version no longer has.
    """
    lines = [*_stack_lines(plan, destroy)]
    if headline := _devices_headline(plan):
        lines += [f"devices: {headline}", *(f"  {line}" for line in _device_lines(plan))]
    for target in plan.targets:
        lines += [f"{target.name}: {_headline(target)}", *(f"  {line}" for line in _details(target))]
    if plan.security and _is_new(plan):
        lines.append(f"rights and network: {len(plan.security)} statements, all new; --json lists them")
    elif plan.security:
        lines += ["rights and network:", *(f"  {each.sign} {each.resource}: {each.what}" for each in plan.security)]
    if plan.replaced:
        lines += ["resources that do not survive in place:", *(f"  {line}" for line in _replaced(plan))]
    lines += ["not announced:", *(f"  ! {line}" for line in complaints)] if complaints else []
    return "\n".join(lines or ["no change"]) + "\n"


def as_markdown(plan: Plan, complaints: list[str], title: str, destroy: str) -> str:
    """Write a plan as the comment of a pull request.

    Args:
        plan: The plan.
        complaints: What `unannounced` says of it.
        title: First line, such as the stage's name.
        destroy: As for `as_text`.
    """
    lines = [f"### Fleet plan: {title}", ""]
    lines += ["> [!CAUTION]", *(f"> - {line}" for line in complaints), ""] if complaints else []
    if stacks := list(_stack_lines(plan, destroy)):
        lines += ["```", *stacks, "```", ""]
    if headline := _devices_headline(plan):
        lines += [f"**Devices**: {headline}", *(f"- `{line}`" for line in _device_lines(plan)), ""]
    lines += ["| target | change | bytes a device | devices | fleet | rollout |", "|---|---|--:|--:|--:|--:|"]
    lines += [
        f"| `{each.name}` | {_headline(each)} | {_size(each.bytes_per_device)} | {_known(each.devices)} | "
        f"{'?' if each.fleet_bytes is None else _size(each.fleet_bytes)} | "
        f"{_minutes(each.rollout_minutes)} |"
        for each in plan.targets
    ]
    for target in plan.targets:
        if details := list(_details(target)):
            # A sign at the beginning would make a list in the list.
            signed = (re.sub("^([-+]) ", r"`\1` ", line) for line in details)
            lines += ["", f"**{target.name}**", *(f"- {line}" for line in signed)]
    if plan.security:
        lines += ["", f"<details><summary>{len(plan.security)} changes of rights and network</summary>", "", "```diff"]
        lines += [f"{each.sign} {each.resource}: {each.what}" for each in plan.security[:_SECURITY_SHOWN]]
        if (hidden := len(plan.security) - _SECURITY_SHOWN) > 0:
            lines.append(f"# and {hidden} more: make plan shows all")
        lines += ["```", "</details>"]
    if plan.replaced:
        lines += ["", "**Resources that do not survive in place**", *(f"- {line}" for line in _replaced(plan))]
    return "\n".join(lines) + "\n"


def _is_new(plan: Plan) -> bool:
    return bool(plan.stacks.added) and not plan.stacks.kept


def _stack_lines(plan: Plan, destroy: str) -> Iterator[str]:
    added, staying = plan.stacks.added, plan.stacks.staying
    if not plan.stacks.kept:
        yield from _whole_stage(plan, destroy)
        return
    if added:
        yield f"new stacks: {', '.join(each.name for each in added)}"
    for each in staying:
        where = f" in {each.region}" if each.region else ""
        yield f"stack {each.name} is no longer part of the stage, but stays{where}{_with_devices([each])}"
        if each.imports:
            yield f"  destroy it by hand before the deploy, which fails as long as it uses {', '.join(each.imports)}:"
        else:
            yield "  destroy it by hand after the deploy:"
        region = f" --region {each.region}" if each.region else ""
        yield f"    aws cloudformation delete-stack{region} --stack-name {each.name}"


def _whole_stage(plan: Plan, destroy: str) -> Iterator[str]:
    """A stage of which nothing is updated in place."""
    added, staying = plan.stacks.added, plan.stacks.staying
    new, old = _regions(added), _regions(staying)
    if added and not staying:
        yield f"new stage: {_count(added, 'stack')} ({_pattern([each.name for each in added])}){_in(new)}"
    elif staying:
        names = _pattern([each.name for each in staying])
        if not added:
            yield f"the stage is gone: nothing is deployed, its stacks {names} stay{_in(old)}{_with_devices(staying)}"
        elif {*new}.isdisjoint(old):
            yield f"other region: {_count(added, 'new stack')}{_in(new)}"
            yield f"  the stacks {names}{_in(old)} stay as they are{_with_devices(staying)}"
        else:
            yield f"other names: {_count(added, 'new stack')} ({_pattern([each.name for each in added])}){_in(new)}"
            yield f"  the stacks {names}{_in(old)} stay as they are{_with_devices(staying)}"
        yield "  no deploy of this version touches them; take them away when nothing needs them any more:"
        yield f"    {destroy}"


def _regions(stacks: Iterable[Stack | StayingStack]) -> list[str]:
    return sorted({each.region for each in stacks if each.region})


def _in(regions: Sequence[str]) -> str:
    return f" in {', '.join(regions)}" if regions else ""


def _with_devices(stacks: Iterable[StayingStack]) -> str:
    count = sum(each.devices for each in stacks)
    return f", with {_number(count, 'device')} registered there" if count else ""


def _devices_headline(plan: Plan) -> str:
    devices = plan.devices
    said = [f"{len(devices.left)} {_verb(devices.left, 'leave')}"] if devices.left else []
    for verb, rings in (
        ("move to", Counter(ring for _, ring in devices.moved.values())),
        ("join", Counter(devices.joined.values())),
    ):
        first, _, rest = verb.partition(" ")
        said += [
            f"{count} {first}{'s' if count == 1 else ''}{f' {rest}' if rest else ''} ring {ring}"
            for ring, count in sorted(rings.items())
        ]
    return f"{', '.join(said)} ({devices.before} → {devices.after})" if said else ""


def _device_lines(plan: Plan) -> Iterator[str]:
    devices = plan.devices
    yield from _shortened(f"- {name} leaves ring {ring}" for name, ring in sorted(devices.left.items()))
    if devices.left:
        yield "the registry takes away the thing, the certificates and the core device of whatever leaves"
    yield from _shortened(
        f"~ {name} moves from ring {old} to ring {new}" for name, (old, new) in sorted(devices.moved.items())
    )
    if not _is_new(plan):
        yield from _shortened(f"+ {name} joins ring {ring}" for name, ring in sorted(devices.joined.items()))


def _shortened(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - _DEVICES_SHOWN
    return found if more <= 0 else [*found[:_DEVICES_SHOWN], f"{found[0][0]} and {more} more: --json lists them"]


def _pattern(names: Sequence[str]) -> str:
    """What all of some names match."""
    if len(names) == 1:
        return names[0]
    same = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    prefix = "".join(letter for letter, _ in same)
    return f"{prefix}*" if prefix else ", ".join(names)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join([*sorted(names)[:_NAMES_SHOWN], *([f"{more} more"] if more > 0 else [])])


def _them(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _count(things: Sized, noun: str) -> str:
    return _number(len(things), noun)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _verb(things: Sized, verb: str) -> str:
    return f"{verb}{'s' if len(things) == 1 else ''}"


def _headline(target: TargetPlan) -> str:
    if target.state in {"unchanged", "removed"}:
        return target.state
    counts = {
        "added": len(target.added),
        "removed": len(target.removed),
        "upgraded": len(target.upgraded),
        "reconfigured": len(target.reconfigured),
    }
    said = [f"{count} {what}" for what, count in counts.items() if count]
    if target.rollout:
        said.append("rollout changed")
    return f"{target.state}: {', '.join(said)}" if said else target.state


def _details(target: TargetPlan) -> Iterator[str]:
    for name, version in target.added.items():
        yield f"+ {name} {version}"
    for name, version in target.removed.items():
        yield f"- {name} {version}: this uninstalls {name}"
    for each in target.upgraded:
        yield f"~ {each.name} {each.before} → {each.after}"
    for name in target.reconfigured:
        yield f"~ {name}: configuration merged anew"
    for line in target.rollout:
        yield f"rollout: {line}"
    if target.restarted:
        yield f"restarts: {', '.join(target.restarted)}"
    if target.bytes_per_device:
        devices = target.devices
        whole = f", {_size(target.bytes_per_device * devices)} for {_number(devices, 'device')}" if devices else ""
        yield f"downloads: {_size(target.bytes_per_device)} a device{whole}"
        yield f"needs {_size(target.disk_per_device)} of a device's disk, archives beside what they hold"
    if target.places and (target.added or target.removed):
        yield f"components on a device: {target.places} of {COMPONENTS.value} while it updates"
    if target.rollout_minutes is not None:
        yield f"rollout takes at least {_minutes(target.rollout_minutes)}"


def _replaced(plan: Plan) -> list[str]:
    return [
        f"{each.resource} ({each.type}) {each.kind}{f': {each.because}' if each.because else ''}"
        f"{', as every update does' if each.expected else ''}"
        for each in plan.replaced
    ]


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.1f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def _known(count: int | None) -> str:
    return "?" if count is None else str(count)


def _minutes(count: int | None) -> str:
    return "?" if count is None else f"{count} min"


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
