"""A rollout tried on a fleet like yours before it happens: `python -m tools.rehearse --fleet FILE --base main`.

The fleet of an export (`python -m tools.fleet_export`) is made out of simulated devices on a twin of its own, runs the
base, and then gets the change as a deploy would bring it: ring by ring, at the stage's rates, with its abort criteria
and gates. Nothing of it reaches an account or another twin. docs/rehearse.md says what is modelled.

Exit codes: 0 the rollout goes through, 1 it would stop, 2 wrong use or no rehearsal, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from config.endings import uninterrupted
from config.fleet import RINGS
from config.loader import ConfigurationError
from config.names import Names
from tools.bill import read_prices, rollout_items
from tools.cloud_assembly import Assembly, AssemblyError, Target
from tools.fleet_export import FleetDevice, FleetFile, FleetFileError, read_fleet
from tools.rehearsal_report import NOT_REACHED, UNCHANGED, Behind, Cost, Rehearsal, RingResult
from tools.rehearsed_rollout import Patience, RehearsedFleet, Rollout
from tools.two_versions import Change, a_stop_interrupts, add_options, read_change
from twin import TwinError, lifecycle
from twin.clock import Clock
from twin.devices.simulated_fleet import COUNT_LIMIT
from twin.simulation.profile import Behaviour, Exit, Profile, load_profile

_NAMES_SHOWN = 10
_PREFIX, _OWNER = "edgewright-rehearsal-", "owner"
_LAG_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.rehearse", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--fleet", type=Path, required=True, help="file of `python -m tools.fleet_export`")
    parser.add_argument("--stage", help="stage of the two versions; the fleet's by default")
    add_options(parser)
    parser.add_argument(
        "--profile", type=Path, help="what components do, a TOML file (docs/twin.md): all goes well by default"
    )
    parser.add_argument("--seed", type=int, help="another seed, another draw; the profile's by default")
    parser.add_argument(
        "--speed",
        type=float,
        default=60.0,
        help="seconds of the rollout in a real one: with 60 an hour takes a minute (default: %(default)g)",
    )
    parser.add_argument(
        "--requests",
        type=float,
        default=6.0,
        help="to each device a minute, while its ring's rollout goes on (default: %(default)g)",
    )
    parser.add_argument(
        "--wait-hours",
        type=float,
        default=1.0,
        help="after so long without a change, who has not ended stays behind (default: %(default)g)",
    )
    parser.add_argument(
        "--away-days",
        type=float,
        default=7.0,
        help="who was not seen for so long before the export has no network here (default: %(default)g)",
    )
    parser.add_argument("--markdown", type=Path, help="write the result as Markdown there, too")
    parser.add_argument("--json", type=Path, help="write it as JSON there, too")
    options = parser.parse_args(arguments)
    try:
        with a_stop_interrupts():
            result = _rehearse(options)
    except KeyboardInterrupt:
        print("rehearse: interrupted, nothing is left", file=sys.stderr)
        return 130
    except (
        *(AssemblyError, ConfigurationError, FleetFileError, TwinError),
        *(OSError, ValueError, ClientError, BotoCoreError, sqlite3.Error),
    ) as exc:
        print(f"rehearse: {exc}", file=sys.stderr)
        return 2
    unwritten = ""
    # Before it is told: a reader that goes (`| head`) ends the program.
    try:
        if options.markdown:
            options.markdown.write_text(result.markdown(), "utf-8")
        if options.json:
            options.json.write_text(json.dumps(result.as_dict(), indent=1) + "\n", "utf-8")
    except OSError as exc:
        unwritten = f"rehearse: the result must be writable, got {exc}: it is the one above"
    print(result.text(), end="")
    if unwritten:
        print(unwritten, file=sys.stderr)
        return 2
    return 1 if result.stopped else 0


def _rehearse(options: argparse.Namespace) -> Rehearsal:
    for name in ("json", "markdown"):
        path: Path | None = getattr(options, name)
        if path and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
            raise AssemblyError(f"--{name} must be a file in a folder that exists and is writable, got {path}")
    for name, least in (("requests", 0.0), ("wait_hours", 0.01), ("away_days", 0.0)):
        if not least <= getattr(options, name) <= 1e6:
            shown = name.replace("_", "-")
            raise AssemblyError(f"--{shown} must be from {least:g} to 1000000, got {getattr(options, name):g}")
    Clock(options.speed)
    fleet = read_fleet(options.fleet)
    profile = load_profile(options.profile) if options.profile else Profile()
    if options.seed is not None:
        profile = profile.model_copy(update={"seed": options.seed})
    rollout_items(fleet.region, 0, 0)  # a region without prices is found before, not after the work
    stage = options.stage or fleet.stage
    _take_away_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as made, (Path(made) / _OWNER).open("w") as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        folder = Path(made).resolve()
        change = read_change(options, stage, folder, _say)
        _check(change, fleet, options)
        if not any(_is_new(target, change) for target in change.after.targets.values()):
            results = [_unchanged(fleet, target) for target in _in_order(change, fleet)]
            return _told(fleet, change, profile, options, results)
        home = folder / "twin"
        try:
            _say("starting a twin")
            state = lifecycle.start(home, speed=options.speed, auth=False)
            patience = Patience(options.wait_hours * 3600, options.requests)
            return rehearse(RehearsedFleet(state, patience, _say), fleet, change, profile, options)
        finally:
            _take_down(home)


def _take_away_left() -> None:
    """End the twins of rehearsals that were killed (signal 9), and delete their folders."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_OWNER}"):
        folder = lock.parent
        with contextlib.suppress(OSError):  # it goes on, or somebody else takes it away
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with lock.open() as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _say(f"{folder} is left of a rehearsal that was killed: it is taken away")
                _take_down(folder.resolve() / "twin")
                shutil.rmtree(folder)


def _take_down(home: Path) -> None:
    """End the twin; a second interrupt does not keep it from that, which is bounded."""
    with uninterrupted():
        lifecycle.stop(home, anyway=True)


def rehearse(
    rehearsed: RehearsedFleet, fleet: FleetFile, change: Change, profile: Profile, options: argparse.Namespace
) -> Rehearsal:
    """Bring the base, then the change, to a fleet of simulated devices.

    Args:
        rehearsed: An empty fleet on a running twin.
        fleet: What it shall be.
        change: The two versions.
        profile: What the devices do with the change; the base runs without failures.
        options: Of the command line.

    Raises:
        TwinError: The twin cannot do it.
    """
    devices = [device for device in fleet.devices if device.nucleus]
    groups = {device.thing: fleet.groups[device.ring] for device in fleet.devices}
    rehearsed.join(devices, groups, profile.seed)
    unready = rehearsed.bring_base(change.before)
    rehearsed.begin(_completed(profile, Names(options.stage or fleet.stage)), _away(fleet, options.away_days))
    rollouts = _roll_out(rehearsed, change, fleet)
    results = [_result(rehearsed, fleet, rollout) for rollout in rollouts]
    return _told(fleet, change, profile, options, results, unready, rehearsed.unknown_artifacts)


def _away(fleet: FleetFile, days: float) -> set[str]:
    """Core devices that were not seen for so long before the export; more days than there are dates make none."""
    longest = timedelta(days=days)
    cores = [device for device in fleet.devices if device.nucleus]
    return {core.thing for core in cores if core.last_seen and fleet.taken - core.last_seen > longest}


def _check(change: Change, fleet: FleetFile, options: argparse.Namespace) -> None:
    devices = sum(device.nucleus is not None for device in fleet.devices)
    if not 1 <= devices <= COUNT_LIMIT:
        raise FleetFileError(f"{options.fleet} must have 1 to {COUNT_LIMIT} core devices, got {devices}")
    if not change.after.targets:
        raise AssemblyError("the change must deploy to the fleet, it has no Greengrass deployment")


def _told(
    fleet: FleetFile,
    change: Change,
    profile: Profile,
    options: argparse.Namespace,
    results: Sequence[RingResult],
    unready: Sequence[Behind] = (),
    unknown: Sequence[str] = (),
) -> Rehearsal:
    notified = sum(result.notified for result in results)
    received = sum(result.received_bytes for result in results)
    costs = [
        Cost(each.name, round(each.usd, 6), each.basis) for each in rollout_items(fleet.region, notified, received)
    ]
    return Rehearsal(
        stage=options.stage or fleet.stage,
        base=options.base or "the assembly before",
        seed=profile.seed,
        taken=fleet.taken.isoformat(),
        nuclei=dict(sorted(Counter(device.nucleus or "unknown" for device in fleet.devices).items())),
        rings=tuple(results),
        costs=tuple(costs),
        prices=read_prices().standing,
        notes=tuple(_notes(fleet, change, unready, unknown)),
    )


def _completed(profile: Profile, names: Names) -> Profile:
    """The profile with what this app's components do where it says nothing: what provides files ends by itself."""
    done = Exit(step="run", after_s=(0.5, 2.0), status=0)
    own = (names.runtime_component, f"edgewright.{names.stage}.model.*")
    entries = tuple(Behaviour(component=component, exit=done) for component in own)
    return profile.model_copy(update={"components": (*profile.components, *entries)})


def _roll_out(rehearsed: RehearsedFleet, change: Change, fleet: FleetFile) -> list[Rollout]:
    """Deploy ring by ring, as long as each gate lets the next one begin."""
    rehearsed.publish(change.after)
    rollouts, stopped = [], False
    for target in _in_order(change, fleet):
        if not _is_new(target, change):
            rollouts.append(Rollout(target, verdict=UNCHANGED))
        elif stopped:
            rollouts.append(Rollout(target, verdict=NOT_REACHED))
        else:
            rollout = rehearsed.deploy(change.after, target)
            stopped = not rehearsed.pass_gate(rollout)
            rollouts.append(rollout)
    rehearsed.finish(rollouts)
    lag_s = max((rehearsed.lag_s(rollout) for rollout in rollouts if rollout.job), default=0.0)
    if lag_s > _LAG_S:
        _say(
            f"this machine took up to {lag_s:.0f} s of the twin's time for what takes the devices none, more than a "
            "minute: with growth or an abort the numbers may be others than with a lower --speed"
        )
    return rollouts


def _is_new(target: Target, change: Change) -> bool:
    """Whether a deploy makes a deployment to it."""
    former = change.before.targets.get(target.name)
    return former is None or _content(former) != _content(target)


def _unchanged(fleet: FleetFile, target: Target) -> RingResult:
    ring, members = _ring(fleet, target.name)
    return RingResult(ring, target.name, UNCHANGED, len(members))


def _ring(fleet: FleetFile, group: str) -> tuple[str, list[FleetDevice]]:
    """Name and members of a group's ring; a group that is none has its own name."""
    ring = next((ring for ring, name in fleet.groups.items() if name == group), group)
    return ring, [device for device in fleet.devices if fleet.groups[device.ring] == group]


def _content(target: Target) -> tuple[object, ...]:
    """What a deployment is made of: where it is the same, a deploy makes none."""
    return target.components, target.configuration, target.rollout


def _in_order(change: Change, fleet: FleetFile) -> list[Target]:
    """The change's targets in the order of the rings, others after them."""
    assembly = change.after
    groups = [fleet.groups[ring] for ring in RINGS if ring in fleet.groups]
    names = [*(group for group in groups if group in assembly.targets), *sorted(set(assembly.targets) - set(groups))]
    return [assembly.targets[name] for name in names]


def _result(rehearsed: RehearsedFleet, fleet: FleetFile, rollout: Rollout) -> RingResult:
    ring, members = _ring(fleet, rollout.target.name)
    result = rehearsed.result(rollout, ring)
    silent = [
        Behind(device.thing, "unknown", "has never reported: it gets the deployment when it first connects")
        for device in members
        if device.nucleus is None and result.verdict != UNCHANGED
    ]
    behind = tuple(_plainly(device, fleet) for device in result.behind)
    return replace(result, devices=len(members), behind=(*behind, *silent))


def _plainly(behind: Behind, fleet: FleetFile) -> Behind:
    """Say of a device that is away since when."""
    if behind.reason != "away":
        return behind
    seen = next(device.last_seen for device in fleet.devices if device.thing == behind.thing)
    return replace(behind, reason=f"has not been seen since {seen:%Y-%m-%d}" if seen else "is away")


def _notes(fleet: FleetFile, change: Change, unready: Sequence[Behind], unknown: Sequence[str]) -> list[str]:
    notes = []
    drifted = [device for device in fleet.devices if device.nucleus and _drifts(device, fleet, change.before)]
    if drifted:
        notes.append(
            f"{len(drifted)} devices did not run the base when the fleet was exported, here they do: "
            f"{_few(device.thing for device in drifted)}"
        )
    for reason in sorted({each.reason for each in unready}):
        names = [each.thing for each in unready if each.reason == reason]
        notes.append(
            f"{len(names)} devices could not run the base, and got the change all the same: {reason}: {_few(names)}"
        )
    reached = {fleet.groups[device.ring] for device in fleet.devices} & set(change.after.targets)
    if left := [device.thing for device in fleet.devices if fleet.groups[device.ring] not in reached]:
        notes.append(f"{len(left)} devices are in groups that the change does not deploy to: {_few(left)}")
    if unknown:
        notes.append(f"not known here is the size of what the cloud makes at a deploy: {_few(set(unknown))}")
    return notes


def _drifts(device: FleetDevice, fleet: FleetFile, base: Assembly) -> bool:
    target = base.targets.get(fleet.groups[device.ring])
    wanted = target.components if target else {}
    return any(device.components.get(name) != version for name, version in wanted.items() if "<" not in version)


def _few(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - _NAMES_SHOWN} more" if len(listed) > _NAMES_SHOWN else ""
    return ", ".join(listed[:_NAMES_SHOWN]) + more


def _say(text: str) -> None:
    """Tell what goes on, apart from the result."""
    print(f"rehearse: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
