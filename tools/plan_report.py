"""A plan as text, as Markdown for a pull request, and what in it was not announced."""

from collections.abc import Iterator

from config.delivery import Announced
from tools.plan_changes import Plan, TargetPlan

_SECURITY_SHOWN = 40


def unannounced(plan: Plan, announced: Announced) -> list[str]:
    """Name what a plan may not do without being announced in the stage's configuration.

    Args:
        plan: The plan.
        announced: The stage's `[announced]` table.

    Returns:
        A sentence each; empty when the change may go ahead.
    """
    found = []
    for target in plan.targets:
        if target.state == "removed" and target.name not in announced.removals:
            found.append(f"target {target.name} loses its deployment: list it in announced.removals")
        for name in target.removed:
            if target.state != "removed" and name not in announced.removals:
                found.append(f"this uninstalls {name} from {target.name}: list {name} in announced.removals")
    found += [
        f"{name} changes its content but not its version: devices that have it never get the change"
        for name in plan.reused_versions
    ]
    found += [
        f"{each.resource} ({each.type}) is {each.kind}{f' because of {each.because}' if each.because else ''}: "
        f"list {each.resource} in announced.replacements"
        for each in plan.replaced
        if not each.expected and each.resource not in announced.replacements
    ]
    return found


def as_text(plan: Plan, complaints: list[str]) -> str:
    """Write a plan for a terminal."""
    lines = []
    for target in plan.targets:
        lines += [f"{target.name}: {_headline(target)}", *(f"  {line}" for line in _details(target))]
    if plan.security:
        lines += ["rights and network:", *(f"  {each.sign} {each.resource}: {each.what}" for each in plan.security)]
    if plan.replaced:
        lines += ["resources that do not survive in place:", *(f"  {line}" for line in _replaced(plan))]
    lines += ["not announced:", *(f"  ! {line}" for line in complaints)] if complaints else []
    return "\n".join(lines or ["no change"]) + "\n"


def as_markdown(plan: Plan, complaints: list[str], title: str) -> str:
    """Write a plan as the comment of a pull request.

    Args:
        plan: The plan.
        complaints: What `unannounced` says of it.
        title: First line, such as the stage's name.
    """
    lines = [f"### Fleet plan: {title}", ""]
    lines += ["> [!CAUTION]", *(f"> - {line}" for line in complaints), ""] if complaints else []
    lines += ["| target | change | bytes a device | devices | fleet | rollout |", "|---|---|--:|--:|--:|--:|"]
    lines += [
        f"| `{each.name}` | {_headline(each)} | {_size(each.bytes_per_device)} | {_known(each.devices)} | "
        f"{'?' if each.fleet_bytes is None else _size(each.fleet_bytes)} | "
        f"{_minutes(each.rollout_minutes)} |"
        for each in plan.targets
    ]
    for target in plan.targets:
        if details := list(_details(target)):
            lines += ["", f"**{target.name}**", *(f"- {line}" for line in details)]
    if plan.security:
        lines += ["", f"<details><summary>{len(plan.security)} changes of rights and network</summary>", "", "```diff"]
        lines += [f"{each.sign} {each.resource}: {each.what}" for each in plan.security[:_SECURITY_SHOWN]]
        if (hidden := len(plan.security) - _SECURITY_SHOWN) > 0:
            lines.append(f"# and {hidden} more: make plan shows all")
        lines += ["```", "</details>"]
    if plan.replaced:
        lines += ["", "**Resources that do not survive in place**", *(f"- {line}" for line in _replaced(plan))]
    return "\n".join(lines) + "\n"


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
        whole = "" if target.fleet_bytes is None else f", {_size(target.fleet_bytes)} for {target.devices} devices"
        yield f"downloads: {_size(target.bytes_per_device)} a device{whole}"
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
