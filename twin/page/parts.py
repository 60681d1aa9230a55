"""The parts of the live page as HTML: whole with the first answer, then each again when it has changed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from typing import Any

from config.places import MODELS
from config.stage import Stage
from twin.page.fleet import ENDED, FAILED, Device, Execution, Rollout, View
from twin.page.html import figure, filled
from twin.page.messages import Heartbeat, Messages, Prediction

DEVICES = 200
"""Rows of the table; the rest is counted."""
_REASONS = 5
NONE = "\N{EN DASH}"
_GOOD = frozenset({"HEALTHY", "RUNNING", "FINISHED", "SUCCEEDED", "COMPLETED", "OK", "ACTIVE", "running"})
_BAD = frozenset({"UNHEALTHY", "BROKEN", "ERRORED", "ALARM", "not running", "failed", "cut off"}) | FAILED


def badge(text: str) -> str:
    """A state, coloured by what it means; its word says it, too."""
    if not text:
        return f'<span class="none">{NONE}</span>'
    good = text in _GOOD or (text.endswith("_COMPLETE") and "ROLLBACK" not in text)
    bad = text in _BAD or "FAILED" in text or "ROLLBACK" in text
    return f'<span class="badge {"good" if good else "bad" if bad else "busy"}">{escape(text.replace("_", " "))}</span>'


def moment(at: float, *, none: str = NONE) -> str:
    """A time of day, which a script turns into how long ago."""
    if not at:
        return f'<span class="none">{none}</span>'
    local = time.localtime(at)
    iso = time.strftime("%Y-%m-%dT%H:%M:%S%z", local)
    return f'<time data-at="{at:.3f}" datetime="{iso}">{time.strftime("%H:%M:%S", local)}</time>'


def glance(view: View, messages: Messages) -> str:
    """The figures at the top."""
    healthy = sum(each.status == "HEALTHY" and each.process in ("", "running") for each in view.devices)
    off = sum(state == "ALARM" for _, state, _, _ in view.alarms)
    moving = [name for name, status, _, _ in view.stacks if "IN_PROGRESS" in status]
    rolling = [rollout.ring for rollout in view.rollouts if rollout.going_on]
    if moving:
        doing = f"{len(moving)} stacks change"
    elif rolling:
        doing = f"rollout to {', '.join(rolling)}"
    else:
        doing = "settled" if view.stacks else "not deployed"
    shown = (
        figure("devices healthy", f"{healthy} of {len(view.devices)}", bad=healthy < len(view.devices)),
        figure("alarms", str(off) if view.alarms else "none there", bad=off > 0),
        figure("deploy", doing),
        figure("answers, last minute", str(messages.rate(60))),
        figure("answers since this page", str(messages.count)),
    )
    return "".join(shown)


def trouble(view: View, messages: Messages) -> str:
    """What keeps the page from knowing; empty if nothing does."""
    said = []
    if view.trouble:
        said.append(f"The account does not answer, what is shown is old: {view.trouble}")
    if messages.trouble:
        said.append(f"Messages of devices do not arrive: {messages.trouble}")
    if messages.unread:
        said.append(f"{messages.unread} messages came faster than they could be read, and were left out.")
    return "".join(f"<p>{escape(text)}</p>" for text in said)


def rollout(view: View) -> str:
    """Stacks as they change, then ring after ring."""
    if not view.stacks and not view.rollouts:
        return "<p>Nothing of the stage is deployed: <code>npx cdk deploy --all</code>, and watch it here.</p>"
    stacks = "".join(
        f'<li id="s-{escape(name)}">{badge(status)} {escape(name)} {moment(changed)}'
        f"{f'<br><small>{escape(reason[:300])}</small>' if reason and 'FAILED' in status else ''}</li>"
        for name, status, changed, reason in sorted(view.stacks, key=lambda each: ("IN_PROGRESS" not in each[1], each))
    )
    settled = all("IN_PROGRESS" not in status and "FAILED" not in status for _, status, _, _ in view.stacks)
    counted = f"{len(view.stacks)} stacks{', all settled' if settled else ''}"
    listed = f'<details id="stacks"{"" if settled else " open"}><summary>{counted}</summary><ul>{stacks}</ul></details>'
    idle = [each.ring for each in view.rollouts if not each.executions]
    words = f"<p>Without devices: ring {', '.join(idle)}.</p>" if idle else ""
    return "".join(_ring(each) for each in view.rollouts if each.executions) + words + listed


def _ring(rollout: Rollout) -> str:
    counts = Counter(each.status for each in rollout.executions)
    failed = [each for each in rollout.executions if each.status in FAILED]
    reasons = "".join(
        f"<li><b>{escape(each.thing)}</b> {moment(each.changed)}: {escape(each.reason[:500]) or 'no reason given'}</li>"
        for each in failed[:_REASONS]
    )
    more = f"<li>and {len(failed) - _REASONS} more</li>" if len(failed) > _REASONS else ""
    return filled(
        "ring.html",
        ring=rollout.ring,
        kind="busy" if rollout.going_on else "bad" if failed else "good",
        state="rolls out" if rollout.going_on else "failed on some" if failed else "done",
        failed="bad" if failed else "",
        total=counts.total(),
        done=sum(counts[status] for status in ENDED),
        words=", ".join(f"{count} {status.lower().replace('_', ' ')}" for status, count in sorted(counts.items())),
        deployment=rollout.deployment[:8],
        created=moment(rollout.created),
        reasons=f'<ul class="reasons">{reasons}{more}</ul>' if reasons else "",
    )


def devices(view: View, heartbeats: Mapping[str, Heartbeat]) -> str:
    """Devices by ring."""
    if not view.devices:
        return "<p>No device has joined yet.</p>"
    status = {each.thing: each for rollout in view.rollouts for each in rollout.executions}
    shown = "".join(
        _device(device, heartbeats.get(device.thing), status.get(device.thing)) for device in view.devices[:DEVICES]
    )
    rest = len(view.devices) - DEVICES
    more = f"<p>and {rest} more, which <code>tools.fleet_page</code> does not list</p>" if rest > 0 else ""
    return filled("devices.html", rows=shown) + more


def _device(device: Device, beat: Heartbeat | None, execution: Execution | None) -> str:
    return filled(
        "device.html",
        thing=device.thing,
        ring=device.ring or NONE,
        process=badge(device.process) if device.process not in ("", "running") else "",
        status=badge(device.status or "not reported"),
        reported=moment(device.reported),
        deployed=badge(execution.status) + " " + moment(execution.changed) if execution else badge(""),
        heartbeat=moment(beat.at if beat else 0, none="none yet"),
        memory=f"{beat.memory_mb:.0f} MB" if beat else NONE,
        models=_models(beat),
        nucleus=device.nucleus or NONE,
        components=_components(device),
    )


def _models(beat: Heartbeat | None) -> str:
    if beat is None:
        return NONE
    listed = "".join(
        f"<li><b>{escape(name)}</b> {escape(latency) or NONE} <small>{escape(version)}</small></li>"
        for name, version, latency in beat.models
    )
    problem = f'<p class="problem">{escape(beat.problem)}</p>' if beat.problem else ""
    return f'<ul class="plain">{listed}</ul>{problem}'


def _components(device: Device) -> str:
    if not device.components:
        return ""
    listed = "".join(
        f"<li>{badge(each.state)} {escape(each.name)} {escape(each.version)}</li>" for each in device.components
    )
    broken = sum(each.state in _BAD for each in device.components)
    words = f"{len(device.components)} components{f', {broken} broken' if broken else ''}"
    return f'<details id="c-{escape(device.thing)}"><summary>{words}</summary><ul class="plain">{listed}</ul></details>'


def predictions(newest: Sequence[Prediction]) -> str:
    """What devices say, the newest first."""
    if not newest:
        return '<li class="wide">No answer has come since this page was started. Ask a model, or let others ask.</li>'
    return "".join(_prediction(each) for each in newest)


def _prediction(each: Prediction) -> str:
    if each.picture:
        shown = f'<img src="picture/{escape(each.picture)}" alt="what the model was shown" width="96" height="96">'
        if each.boxes:
            shown = f'<span class="boxed">{shown}{_boxes(each)}</span>'
    else:
        shown = f'<code class="asked">{escape(each.asked) or "asked before this page was started"}</code>'
    bars = "".join(
        f'<li><span>{escape(label)}</span> <progress max="1" value="{probability:.4f}" aria-label="probability of '
        f'{escape(label)}"></progress> {probability:.3f}</li>'
        for label, probability in each.top[:3]
    )
    return filled(
        "prediction.html",
        number=each.number,
        kind="bad" if each.wrong else "",
        shown=shown,
        label=each.label,
        truth=f" <small>is {escape(each.wrong)}</small>" if each.wrong not in ("", "error") else "",
        bars=bars,
        model=each.model,
        took=f"{each.latency_ms:.2f} ms · " if each.latency_ms is not None else "",
        when=moment(each.at),
        device=each.device,
    )


def _boxes(each: Prediction) -> str:
    """What was found, as a drawing over its picture, scaled as the picture is."""
    width, height = each.size
    drawn = "".join(
        f'<rect x="{left:g}" y="{top:g}" width="{max(right - left, 0):g}" height="{max(bottom - top, 0):g}"/>'
        for left, top, right, bottom in each.boxes
    )
    return f'<svg viewBox="0 0 {max(width, 1):g} {max(height, 1):g}" aria-hidden="true">{drawn}</svg>'


def alarms(view: View) -> str:
    """Alarms, those that are off first."""
    if not view.alarms:
        return "<p>The stage has no alarms in this account.</p>"
    lines = [
        filled("alarm.html", name=name, state=badge(state), since=moment(since), reason=reason)
        for name, state, reason, since in view.alarms
    ]
    off = sum(state != "OK" for _, state, _, _ in view.alarms)
    quiet = f"{len(lines) - off} of {len(lines)} alarms are OK"
    shown = filled("alarms.html", caption="Alarms that are not OK", rows="".join(lines[:off])) if off else ""
    rest = filled("alarms.html", caption="Alarms that are OK", rows="".join(lines[off:]))
    return f'{shown}<details id="quiet"><summary>{quiet}</summary>{rest}</details>' if off < len(lines) else shown


def targets(view: View) -> str:
    """Options of the forms that name a device."""
    return "".join(f"<option>{escape(each.thing)}</option>" for each in view.devices[:DEVICES])


#: Parts of what the account says alone, each by its place: written anew whenever that has changed.
OF_VIEW: Mapping[str, Callable[[View], str]] = {"rollout": rollout, "alarms": alarms, "targets": targets}


def models(stage: Stage) -> str:
    """Options of the form that asks: what each model takes, and an example of a row."""
    options = []
    for model in stage.models:
        declaration: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            declaration = json.loads((MODELS / model.folder / "model.json").read_text(encoding="utf-8-sig"))
        takes = "row" if str(declaration.get("task", "")).startswith("tabular") else "draw picture"
        takes += " sample" if "samples" in declaration else ""
        row = json.dumps(dict.fromkeys(declaration.get("features") or [], 1.0))
        options.append(f'<option data-takes="{takes}" data-row="{escape(row)}">{escape(model.folder)}</option>')
    return "".join(options)
