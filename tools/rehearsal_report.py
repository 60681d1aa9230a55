"""What a rehearsal found, as text, as Markdown for a pull request, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

_SHOWN = 10
#: How a ring's rollout ends.
THROUGH, ABORTED, UNHEALTHY, NOT_REACHED, UNCHANGED, EMPTY = (
    "goes through",
    "is aborted",
    "stops at the gate",
    "is not reached",
    "does not change",
    "has no devices",
)


@dataclass(frozen=True)
class Behind:
    """A device that does not run the change at the end.

    Attributes:
        thing: Its name.
        nucleus: `lite`, `classic`, or `unknown` where it has never reported.
        reason: Why.
    """

    thing: str
    nucleus: str
    reason: str


@dataclass(frozen=True)
class RingResult:
    """What the change does to one ring.

    Attributes:
        ring: Its name.
        group: Its thing group.
        verdict: How its rollout ends.
        devices: How many it has.
        notified: How many were told.
        succeeded: How many run the change.
        minutes: From the deployment to its last device, in minutes of the fleet's time.
        gate_minutes: Until the deploy goes on to the next ring; None: it does not wait, or in vain.
        gate: What the deploy waits for; empty for nothing.
        abort: Where the rollout is cancelled, or how far it is from that.
        received_bytes: What its devices download.
        restarts: Starts of components that ran before, or that failed.
        requests: How many its devices are asked while its rollout goes on.
        requests_lost: How many of them meet a component that is down.
        behind: Devices that stay behind.
    """

    ring: str
    group: str
    verdict: str
    devices: int
    notified: int = 0
    succeeded: int = 0
    minutes: float = 0.0
    gate_minutes: float | None = None
    gate: str = ""
    abort: str = ""
    received_bytes: int = 0
    restarts: int = 0
    requests: int = 0
    requests_lost: int = 0
    behind: tuple[Behind, ...] = ()


@dataclass(frozen=True)
class Cost:
    """A line of the rollout's bill, US dollars."""

    item: str
    usd: float
    basis: str


@dataclass(frozen=True)
class Rehearsal:
    """A rollout that was tried; equal for equal fleet, versions, profile and seed.

    Attributes:
        stage: The stage.
        base: What the devices run before it.
        seed: Of all that is left to chance.
        taken: When the fleet was exported.
        nuclei: Devices by nucleus.
        rings: In the order of the rollout.
        costs: The rollout's bill.
        prices: How far the prices may be trusted.
        notes: What differs between this fleet and the exported one.
    """

    stage: str
    base: str
    seed: int
    taken: str
    nuclei: dict[str, int]
    rings: tuple[RingResult, ...]
    costs: tuple[Cost, ...] = ()
    prices: str = ""
    notes: tuple[str, ...] = ()

    @property
    def stopped(self) -> RingResult | None:
        """The ring at which the rollout would stop; None: it goes through."""
        return next((each for each in self.rings if each.verdict in (ABORTED, UNHEALTHY)), None)

    @property
    def headline(self) -> str:
        """The result in a sentence."""
        if stopped := self.stopped:
            why = stopped.abort if stopped.verdict == ABORTED else stopped.gate
            return f"the rollout would stop at ring {stopped.ring}, which {stopped.verdict}: {why}"
        if all(each.verdict in (UNCHANGED, EMPTY) for each in self.rings):
            return "a deploy brings the devices nothing new"
        behind = sum(len(each.behind) for each in self.rings)
        return f"the rollout goes through; {behind or 'no'} {'device stays' if behind == 1 else 'devices stay'} behind"

    @property
    def usd(self) -> float:
        """What the rollout costs."""
        return sum(each.usd for each in self.costs)

    def as_dict(self) -> dict[str, Any]:
        """The result for a program."""
        return {"schema": 1, "goes_through": self.stopped is None, "headline": self.headline, **asdict(self)}

    def text(self) -> str:
        """The result for a terminal."""
        fleet = ", ".join(f"{count} {nucleus}" for nucleus, count in self.nuclei.items())
        lines = [f"{self.stage}: {self.headline}", f"  fleet of {self.taken}: {fleet}; seed {self.seed}"]
        for ring in self.rings:
            lines += ["", f"ring {ring.ring} ({ring.group}, {ring.devices} devices) {ring.verdict}"]
            lines += [f"  {line}" for line in [*_facts(ring), *_behind(ring)]]
        lines += ["", f"the rollout costs {self.usd:.4f} USD ({self.prices})"]
        lines += [f"  {each.usd:.4f} USD  {each.item}: {each.basis}" for each in self.costs]
        return "\n".join([*lines, *([""] if self.notes else []), *self.notes]) + "\n"

    def markdown(self) -> str:
        """The result as a comment of a pull request."""
        lines = [f"### Rehearsal: {self.stage}", ""]
        lines += ["> [!CAUTION]", f"> {_sentence(self.headline)}"] if self.stopped else [_sentence(self.headline)]
        lines += ["", "| ring | devices | run it | minutes | download | restarts | requests | outcome |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|---|"]
        lines += [
            f"| {ring.ring} | {ring.devices} | {ring.succeeded} | {ring.minutes:g} | "
            f"{ring.received_bytes / 1e6:.1f} MB | {ring.restarts} | {_lost(ring)} | {ring.verdict} |"
            for ring in self.rings
        ]
        for ring in self.rings:
            if ring.behind or ring.gate or ring.abort:
                lines += ["", f"**{ring.ring}**", *(f"- {_plain(line)}" for line in [*_gates(ring), *_behind(ring)])]
        lines += ["", *(f"- {_plain(note)}" for note in self.notes)] if self.notes else []
        fleet = ", ".join(f"{count} {nucleus}" for nucleus, count in self.nuclei.items())
        lines += ["", f"The rollout costs {self.usd:.4f} USD. Fleet of {self.taken}: {fleet}; seed {self.seed}."]
        lines += [f"<sub>Simulated devices: docs/rehearse.md says what is modelled. List {self.prices}.</sub>"]
        return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return _plain(f"{text[:1].upper()}{text[1:]}.")


def _plain(text: str) -> str:
    """What a device says may hold `<` and `>`: Markdown would take that for HTML, and show nothing of it."""
    return escape(text, quote=False)


def _facts(ring: RingResult) -> Iterator[str]:
    if ring.verdict in (NOT_REACHED, UNCHANGED, EMPTY):
        return
    yield f"{ring.succeeded} of {ring.devices} run it, {ring.notified} were notified, {ring.minutes:g} minutes"
    yield f"{ring.received_bytes:,} bytes downloaded, {ring.restarts} restarts, requests: {_lost(ring)}"
    yield from _gates(ring)


def _lost(ring: RingResult) -> str:
    return f"{ring.requests_lost} of {ring.requests} lost"


def _gates(ring: RingResult) -> Iterator[str]:
    if ring.gate:
        after = f", after {ring.gate_minutes:g} minutes" if ring.gate_minutes is not None else ""
        yield f"gate: {ring.gate}{after}"
    if ring.abort:
        yield f"abort: {ring.abort}"


def _behind(ring: RingResult) -> Iterator[str]:
    """Devices by their reason, the most frequent first; of each at most ten by name."""
    reasons = Counter(each.reason for each in ring.behind)
    for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0])):
        of_reason = [each for each in ring.behind if each.reason == reason]
        yield f"{count} behind: {reason}: {named(of_reason)}"


def named(devices: Sequence[Behind]) -> str:
    """Names with their nucleus, at most ten and how many more there are."""
    shown = ", ".join(f"{each.thing} ({each.nucleus})" for each in devices[:_SHOWN])
    return shown + (f" and {len(devices) - _SHOWN} more" if len(devices) > _SHOWN else "")
