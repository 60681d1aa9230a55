"""A fleet of simulated devices, and rollouts to it as a deploy makes them, with the gate's own code.

What is told of a rollout goes by the model's time: a batch of the rollout is a minute, a device takes what its profile
says. How long this machine took for it is told apart, as it is another each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import boto3

from edge_handlers.deployment_health import FAILED, HEALTHY, DeploymentHealthError, HealthCheck, follow
from edge_rules.recipe_view import DEPLOYMENT, recipes
from tools.cloud_assembly import Assembly, Target, artifact_file, target_name, told_components
from tools.fleet_export import FleetDevice
from tools.rehearsal_report import ABORTED, EMPTY, NOT_REACHED, THROUGH, UNCHANGED, UNHEALTHY, Behind, RingResult, named
from twin import TwinError
from twin.clock import Clock
from twin.devices import simulated_fleet
from twin.devices.simulated_fleet import SimulatedDevice
from twin.process import fleet_folder
from twin.simulation.profile import Lot, Profile
from twin.simulation.storage import Entry, read_entries
from twin.state import TwinState

_BUCKET = "rehearsal"
_ENDED = ("SUCCEEDED", "FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED")
_POLL_S = 0.5
_TOLD_S = 5.0
_JOIN_LIMIT_S = 900.0
_BASE_QUIET_S = 120.0
#: Within so long a fleet has written what its devices have noted.
_WRITTEN_S = 1.5
_CAUSE_CHARACTERS = 400


@dataclass(frozen=True)
class Patience:
    """What a rehearsal is told of waiting and asking.

    Args:
        quiet_s: After so long without a change, those that have not ended stay behind; of the twin's time.
        requests_a_minute: To each device.
    """

    quiet_s: float
    requests_a_minute: float


@dataclass
class Rollout:
    """A target's rollout.

    Args:
        target: What it brings.
        verdict: How it ends.
        deployment: Its id.
        job: Id of its IoT job.
        until_s: When its gate gives up, by the twin's time.
        began_s: When it began, since the change began, in seconds of the model.
        next_s: When the next one began.
        executions: What became of its devices, by thing.
        batches: Which batch each was in, by thing.
        healthy: Devices that run it and are well.
        away: Devices that its gate does not wait for.
        canceled: Whether the abort criteria were met.
    """

    target: Target
    verdict: str = THROUGH
    deployment: str = ""
    job: str = ""
    until_s: float = math.inf
    began_s: float = 0.0
    next_s: float = 0.0
    executions: dict[str, str] = field(default_factory=dict)
    batches: dict[str, int] = field(default_factory=dict)
    healthy: frozenset[str] = frozenset()
    away: tuple[str, ...] = ()
    canceled: bool = False


class RehearsedFleet:
    """Simulated devices on a twin.

    Args:
        state: Of a running twin without devices.
        patience: How long to wait.
        say: Told what happens.
    """

    def __init__(self, state: TwinState, patience: Patience, say: Callable[[str], None]) -> None:
        self.unknown_artifacts: list[str] = []
        self._state, self._patience, self._say = state, patience, say
        self._clock = Clock.read(state.clock)
        arguments = state.client_arguments()
        self._iot, self._greengrass = boto3.client("iot", **arguments), boto3.client("greengrassv2", **arguments)
        self._s3 = boto3.client("s3", **arguments)
        self._s3.create_bucket(Bucket=_BUCKET)
        self._published: set[tuple[str, str]] = set()
        self._uploaded: dict[str, str] = {}
        self._nuclei: dict[str, str] = {}
        self._groups: dict[str, str] = {}
        self._away: frozenset[str] = frozenset()
        self._profile = Profile()
        self._measured = 0
        self._told, self._told_at = "", 0.0

    def join(self, devices: Sequence[FleetDevice], groups: Mapping[str, str], seed: int) -> None:
        """Let devices join, and wait until each has reported.

        Args:
            devices: Core devices of an export.
            groups: Thing to thing group.
            seed: Of what is left to chance.

        Raises:
            TwinError: They do not come.
        """
        self._nuclei = {device.thing: device.nucleus or "" for device in devices}
        self._groups = {thing: groups[thing] for thing in self._nuclei}
        self._profile = Profile(seed=seed)
        wanted = [
            SimulatedDevice(each.thing, groups[each.thing], each.nucleus or "", each.architecture or "")
            for each in devices
        ]
        simulated_fleet.set_devices(self._state, wanted, profile=self._profile, progress=self._say)
        pages = self._greengrass.get_paginator("list_core_devices")
        deadline, there = time.monotonic() + _JOIN_LIMIT_S, 0
        while there < len(devices):
            if time.monotonic() > deadline:
                raise TwinError(f"{len(devices)} devices must join within {_JOIN_LIMIT_S:g} s, {there} did")
            time.sleep(_POLL_S)
            there = sum(len(page["coreDevices"]) for page in pages.paginate(maxResults=100))
            self._tell(f"{there} of {len(devices)} devices have joined")

    def bring_base(self, base: Assembly) -> list[Behind]:
        """Deploy what the devices run before the change, at once and without failures; those that cannot run it."""
        self.publish(base)
        made = []
        for target in base.targets.values():
            if self._members(target):
                deployment, job = self._create(base, target, rates=False)
                made.append(Rollout(target, deployment=deployment, job=job))
        quiet_s = self._patience.quiet_s
        unready: list[Behind] = []
        for rollout in made:
            self._settle(rollout, max(quiet_s, _BASE_QUIET_S * self._clock.speed), "the base")
            unready += [
                Behind(thing, self._nuclei[thing], self._cause(rollout, thing))
                for thing in self._members(rollout.target)
                if rollout.executions.get(thing) != "SUCCEEDED"
            ]
        return unready

    def begin(self, profile: Profile, away: Collection[str]) -> None:
        """Begin to measure: from here on the devices do as the profile says.

        Args:
            profile: What they do.
            away: Devices that have no network from here on.
        """
        self._profile, self._away = profile, frozenset(away)
        self._measured += 1
        simulated_fleet.change(self._state, profile=profile, measuring=self._measured, away=away)

    def publish(self, assembly: Assembly) -> None:
        """Make the component versions of an assembly that are not there yet."""
        for recipe in recipes(assembly.view):
            if (recipe.name, recipe.version) in self._published or not recipe.document:
                continue
            body = json.loads(recipe.text)
            for manifest in body.get("Manifests") or []:
                for artifact in manifest.get("Artifacts") or []:
                    uri = str(artifact.get("Uri", ""))
                    zipped = str(artifact.get("Unarchive", "")).upper() == "ZIP"
                    artifact["Uri"] = self._upload(artifact_file(assembly.view, uri), uri, zipped=zipped)
            self._greengrass.create_component_version(inlineRecipe=json.dumps(body).encode())
            self._published.add((recipe.name, recipe.version))

    def _upload(self, file: Path | None, uri: str, *, zipped: bool) -> str:
        """Keep an artifact under its origin's name; what only the cloud makes is a small file in its place."""
        name = uri.rsplit("/", 1)[-1].strip("<>") or "artifact"
        if file is None or not file.is_file():
            self.unknown_artifacts.append(name)
            file = None
        known = self._uploaded.get(origin := f"{file or uri} {zipped}")
        if known:
            return known
        key = f"{hashlib.sha256(f'{origin} {uri}'.encode()).hexdigest()}/{name}"
        if zipped and (file is None or not zipfile.is_zipfile(file)):
            # What is packed in the cloud has about the size of its source.
            self._s3.put_object(Bucket=_BUCKET, Key=key, Body=_packed(file, uri))
        else:
            self._s3.put_object(Bucket=_BUCKET, Key=key, Body=file.read_bytes() if file else uri.encode())
        self._uploaded[origin] = f"s3://{_BUCKET}/{key}"
        return self._uploaded[origin]

    def deploy(self, assembly: Assembly, target: Target) -> Rollout:
        """Begin a target's rollout, at the assembly's rates."""
        if not self._members(target):
            return Rollout(target, EMPTY)
        deployment, job = self._create(assembly, target, rates=True)
        timeout_s = target.gate.timeout_s if target.gate else math.inf
        return Rollout(target, deployment=deployment, job=job, until_s=self._clock.time() + timeout_s)

    def _create(self, assembly: Assembly, target: Target, *, rates: bool) -> tuple[str, str]:
        (resource,) = [each for each in assembly.view.of_type(DEPLOYMENT) if target_name(each) == target.name][:1]
        components: dict[str, dict[str, Any]] = {}
        for name, wanted in told_components(resource).items():
            components[name] = {"componentVersion": target.components[name]}
            update = wanted.get("ConfigurationUpdate") or {}
            if update:
                reset = {"reset": resource.texts(update["Reset"])} if update.get("Reset") else {}
                merge = {"merge": resource.text(update["Merge"])} if update.get("Merge") else {}
                components[name]["configurationUpdate"] = {**reset, **merge}
        more = {_lower(key): _lowered(value) for key, value in target.rollout.items()} if rates else {}
        made = self._greengrass.create_deployment(
            targetArn=f"arn:aws:iot:{self._state.region}:{self._state.account}:thinggroup/{target.name}",
            components=components,
            **more,
        )
        return str(made["deploymentId"]), str(made["iotJobId"])

    def pass_gate(self, rollout: Rollout) -> bool:
        """Wait as the deploy does for a ring; whether it goes on."""
        if not rollout.job or not rollout.target.gate:
            return True
        # Nothing changes while the gate waits until devices are away.
        quiet_s = max(self._patience.quiet_s, rollout.target.gate.away_s)
        if self._settle(rollout, quiet_s, f"ring {rollout.target.gate.ring}", gated=True):
            return True
        rollout.verdict = UNHEALTHY
        return False

    def finish(self, rollouts: Sequence[Rollout]) -> None:
        """Wait until nothing more becomes of rollouts, and say when each began, by the model's time."""
        for rollout in rollouts:
            if rollout.job:
                self._settle(rollout, self._patience.quiet_s, rollout.target.name)
                rollout.verdict = ABORTED if rollout.canceled else rollout.verdict
        time.sleep(_WRITTEN_S)
        entries, began_s = read_entries(self._folder), 0.0
        for rollout in rollouts:
            rollout.began_s = began_s
            if rollout.job and (gate := rollout.target.gate):
                ends = {thing: self._end_s(rollout, thing, entries) for thing in rollout.healthy}
                opened_s, rollout.away = _opened(
                    gate, self._members(rollout.target), ends, self._unheard(rollout, gate)
                )
                began_s += opened_s
            rollout.next_s = began_s

    def _settle(self, rollout: Rollout, quiet_s: float, name: str, *, gated: bool = False) -> bool:
        """Wait until a rollout's devices have ended or nothing has changed for long; or until its gate opens.

        Returns:
            Whether the gate opened.
        """
        last: tuple[Any, ...] = ()
        closed, moved = False, self._clock.time()
        members = self._members(rollout.target)
        while True:
            now = self._clock.time()
            told = self._iot.describe_job(jobId=rollout.job)["job"]
            counts = told["jobProcessDetails"]
            if (state := (told["status"], *sorted((k, v) for k, v in counts.items() if isinstance(v, int)))) != last:
                last, moved = state, now
            ended = sum(counts.get(f"numberOf{name}Things", 0) for name in _COUNTED)
            queued, busy = counts.get("numberOfQueuedThings", 0), counts.get("numberOfInProgressThings", 0)
            self._tell(f"{name}: {ended} of {len(members)} devices have ended, {queued + busy} are at it or away")
            away = sum(thing in self._away for thing in members)
            over = not busy and (told["status"] == "CANCELED" or ended + min(queued, away) >= len(members))
            if gated and not closed:
                try:
                    if self._gate_is_open(rollout, is_last=now >= rollout.until_s):
                        return True
                except DeploymentHealthError:
                    closed = True
            if (over and (closed or not gated)) or now - moved > quiet_s:
                break
            time.sleep(_POLL_S)
        self._read(rollout)
        return False

    def _gate_is_open(self, rollout: Rollout, *, is_last: bool) -> bool:
        gate = rollout.target.gate
        assert gate is not None  # noqa: S101 - asked only of a rollout with a gate
        arn = f"arn:aws:iot:{self._state.region}:{self._state.account}:thinggroup/{rollout.target.name}"
        # What has been registered and never reported is not among the devices here.
        check = replace(gate, deployment=rollout.deployment, group_arn=arn)
        now = self._clock.time()
        answer = follow(check, self._greengrass, self._iot, is_update=False, is_last=is_last, now=now)
        return bool(answer["IsComplete"])

    def _read(self, rollout: Rollout) -> None:
        """Take down what has become of a rollout's devices."""
        found: dict[str, tuple[str, float]] = {}
        for thing, summary in self._executions(rollout):
            found[thing] = summary["status"], summary["queuedAt"].timestamp()
        moments = sorted({moment for _status, moment in found.values()})
        rollout.executions = {thing: status for thing, (status, _moment) in found.items()}
        rollout.batches = {thing: moments.index(moment) for thing, (_status, moment) in found.items()}
        rollout.canceled = self._iot.describe_job(jobId=rollout.job)["job"]["status"] == "CANCELED"
        pages = self._greengrass.get_paginator("list_core_devices").paginate(maxResults=100)
        status = {each["coreDeviceThingName"]: each["status"] for page in pages for each in page["coreDevices"]}
        succeeded = {thing for thing, state in rollout.executions.items() if state == "SUCCEEDED"}
        rollout.healthy = frozenset(thing for thing in succeeded if status.get(thing) == HEALTHY)

    def _executions(self, rollout: Rollout) -> Iterator[tuple[str, dict[str, Any]]]:
        for page in self._iot.get_paginator("list_job_executions_for_job").paginate(jobId=rollout.job, maxResults=250):
            for each in page["executionSummaries"]:
                yield each["thingArn"].partition(":thing/")[2], each["jobExecutionSummary"]

    def result(self, rollout: Rollout, ring: str) -> RingResult:
        """What a rollout did to its ring."""
        members = self._members(rollout.target)
        head = RingResult(ring, rollout.target.name, rollout.verdict, len(members))
        if rollout.verdict in (NOT_REACHED, UNCHANGED):
            stays = "not notified: the rollout had stopped before"
            left = members if rollout.verdict == NOT_REACHED else []
            return replace(head, behind=tuple(Behind(thing, self._nuclei[thing], stays) for thing in left))
        if not rollout.job:
            return head
        entries = read_entries(self._folder)
        ended = [thing for thing in members if rollout.executions.get(thing) in _ENDED]
        ended = [thing for thing in ended if rollout.executions[thing] != "CANCELED"]
        ends = {thing: self._end_s(rollout, thing, entries) for thing in ended}
        last_s = max(ends.values(), default=0.0)
        of_ring = [entries.get(thing, Entry()) for thing in rollout.executions]
        down_s = sum(self._down_s(rollout, thing, entries, last_s) for thing in ended)
        asked = self._patience.requests_a_minute
        succeeded = sum(status == "SUCCEEDED" for status in rollout.executions.values())
        opened = rollout.target.gate is not None and rollout.verdict != UNHEALTHY
        return replace(
            head,
            notified=sum(status != "CANCELED" or thing in ended for thing, status in rollout.executions.items()),
            succeeded=succeeded,
            minutes=round(last_s / 60, 1),
            gate_minutes=round((rollout.next_s - rollout.began_s) / 60, 1) if opened else None,
            gate=self._gate_text(rollout),
            abort=_abort_text(rollout, len(members)),
            received_bytes=sum(entry.received_bytes for entry in of_ring),
            restarts=sum(entry.restarts for entry in of_ring),
            requests=round(asked * len(members) * last_s / 60),
            requests_lost=round(asked * down_s / 60),
            behind=tuple(
                Behind(thing, self._nuclei[thing], self._cause(rollout, thing))
                for thing in members
                if thing not in rollout.healthy
            ),
        )

    def lag_s(self, rollout: Rollout) -> float:
        """How much longer this machine took for a device than the model says, the slowest twentieth left out."""
        took = []
        entries = read_entries(self._folder)
        for thing, summary in self._executions(rollout):
            if summary["status"] in ("SUCCEEDED", "FAILED"):
                real = (summary["lastUpdatedAt"] - summary["queuedAt"]).total_seconds()
                took.append(real - self._end_s(rollout, thing, entries, queued=True))
        took.sort()
        return took[int(len(took) * 0.95)] if took else 0.0

    def _end_s(self, rollout: Rollout, thing: str, entries: Mapping[str, Entry], *, queued: bool = False) -> float:
        """When a device ends, since its rollout began or since it was told, by the model's time."""
        told_s = 60.0 * rollout.batches.get(thing, 0)
        heard_s = Lot(self._profile, thing).back_s(rollout.began_s + told_s) - rollout.began_s
        return heard_s + entries.get(thing, Entry()).took_s - (told_s if queued else 0.0)

    def _down_s(self, rollout: Rollout, thing: str, entries: Mapping[str, Entry], last_s: float) -> float:
        """How long a device does not answer until the ring's rollout is over."""
        entry = entries.get(thing, Entry())
        if entry.broken_at_s is None:
            return entry.down_s
        heard_s = self._end_s(rollout, thing, entries) - entry.took_s
        return entry.down_s + max(0.0, last_s - heard_s - entry.broken_at_s)

    def _unheard(self, rollout: Rollout, gate: HealthCheck) -> dict[str, tuple[float, float]]:
        """From when until when devices are away for a gate, since the rollout began, by the model's time."""
        found = {}
        for thing, batch in rollout.batches.items():
            told_s, status = 60.0 * batch, rollout.executions[thing]
            back_s = Lot(self._profile, thing).back_s(rollout.began_s + told_s) - rollout.began_s
            back_s = math.inf if status == "QUEUED" else back_s
            if status != "CANCELED" and gate.is_away("QUEUED", back_s - told_s):
                found[thing] = told_s + gate.away_s, back_s
        return found

    def _gate_text(self, rollout: Rollout) -> str:
        if (gate := rollout.target.gate) is None:
            return ""
        devices = len(self._members(rollout.target))
        present = devices - len(rollout.away)
        failed = sum(status in FAILED for status in rollout.executions.values())
        text = f"{len(rollout.healthy)} of {devices} devices are healthy, {gate.needed(present)} are needed"
        text += f"; {failed} failed"
        if rollout.away:
            away = named([Behind(thing, self._nuclei[thing], "") for thing in rollout.away])
            text += f"; {len(rollout.away)} away and not waited for: {away}"
        if gate.missing(devices, present):
            text += f"; at least {gate.present_percentage} % of {devices} must be there"
        return text if rollout.verdict != UNHEALTHY else f"{text}; it waits {gate.timeout_s / 60:g} minutes"

    def _cause(self, rollout: Rollout, thing: str) -> str:
        status = rollout.executions.get(thing)
        if status is None or status == "CANCELED":
            return "not notified: the rollout was stopped before" if status is None else "cancelled with the rollout"
        if status == "SUCCEEDED":
            return "runs it, and is UNHEALTHY"
        if status in ("QUEUED", "IN_PROGRESS"):
            lost = status == "QUEUED" and bool(Lot(self._profile, thing).outages())
            return "away" if thing in self._away else "has no network" if lost else "has not ended"
        answer = self._iot.describe_job_execution(jobId=rollout.job, thingName=thing)["execution"]
        details = answer.get("statusDetails", {}).get("detailsMap", {})
        cause = " ".join(details.get("deployment-failure-cause", "").split())[:_CAUSE_CHARACTERS]
        return f"{status}: {cause or 'the device gives no reason'}"

    def _members(self, target: Target) -> list[str]:
        return sorted(thing for thing, group in self._groups.items() if group == target.name)

    @property
    def _folder(self) -> Path:
        return fleet_folder(self._state.home)

    def _tell(self, text: str) -> None:
        if text != self._told and time.monotonic() - self._told_at > _TOLD_S:
            self._told, self._told_at = text, time.monotonic()
            self._say(text)


def _opened(
    gate: HealthCheck, members: Sequence[str], ends: Mapping[str, float], unheard: Mapping[str, tuple[float, float]]
) -> tuple[float, tuple[str, ...]]:
    """When a gate opens, by the model's time, and who is away then; at the end, where it does not."""
    at_s: float = 0.0
    away: tuple[str, ...] = ()
    for at_s in sorted({0.0, *ends.values(), *(since_s for since_s, _back_s in unheard.values())}):
        away = tuple(thing for thing in members if thing in unheard and unheard[thing][0] <= at_s < unheard[thing][1])
        present = len(members) - len(away)
        healthy = sum(end_s <= at_s for end_s in ends.values())
        if healthy >= gate.needed(present) and not gate.missing(len(members), present):
            break
    return at_s, away


_COUNTED = ("Succeeded", "Failed", "Rejected", "TimedOut", "Canceled", "Removed")


def _abort_text(rollout: Rollout, devices: int) -> str:
    """What would cancel the rollout, and how far it is from that."""
    configuration = rollout.target.rollout.get("IotJobConfiguration") or {}
    criteria = (configuration.get("AbortConfig") or {}).get("CriteriaList") or []
    statuses = [status for status in rollout.executions.values() if status in _ENDED and status != "CANCELED"]
    for each in criteria:
        kind = str(each.get("FailureType", "FAILED"))
        failed = sum(kind in ("ALL", status) for status in statuses if status != "SUCCEEDED")
        least, limit = each.get("MinNumberOfExecutedThings", 1), each.get("ThresholdPercentage", 100)
        share = 100 * failed / len(statuses) if statuses else 0.0
        text = f"{failed} of {len(statuses)} {kind} ({share:.1f} %); the limit is {limit:g} % of at least {least}"
        if rollout.canceled and share >= limit:
            left = devices - len(statuses)
            return f"cancelled after {len(statuses)} of {devices} devices, {left} keep what they have: {text}"
        if kind == "FAILED" and not rollout.canceled:
            return text
    return "cancelled" if rollout.canceled else ""


def _packed(file: Path | None, uri: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("content", file.read_bytes() if file else uri)
    return buffer.getvalue()


def _lower(key: str) -> str:
    return key[:1].lower() + key[1:]


def _lowered(value: Any) -> Any:
    """CloudFormation's spelling as the service's own."""
    if isinstance(value, Mapping):
        return {_lower(key): _lowered(each) for key, each in value.items()}
    return [_lowered(each) for each in value] if isinstance(value, list) else value
