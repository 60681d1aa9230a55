"""Whether a candidate becomes the model of its ring: sketches of its comparison, the decision, and what says so.

What is tested is a share of inputs: those with the current model's answer, those that the candidate gets right, or
those for which it takes no longer than it may. `good` and `bad` are the ends of an indifference zone. Wald's sequential
probability ratio test compares their likelihoods; by Ville's inequality a ratio exceeds 1 / e with a probability of at
most e, however often and whenever it is looked at, so that

- a share of `good` or more is refused with a probability of at most `alpha`,
- a share of `bad` or less is accepted with a probability of at most `beta`.

At the latest end what is not accepted is refused. The probability of that for a `good` share is at most that of a
binomial tail, which `latest` keeps below `alpha`, too: each takes one half of it.

Sources: A. Wald, Sequential Tests of Statistical Hypotheses, Annals of Mathematical Statistics 16 (1945), 117-186;
J. Ville, Étude critique de la notion de collectif (1939), for looks at any time.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

#: Bins a doubling of the ratio of two latencies.
RATIO_BINS = 8
#: The median must not exceed the limit: of a model that is exactly at it, half the inputs are within.
IN_TIME, TOO_LATE = 0.6, 0.4
_MOST_BINS, _MOST_COUNT = 200, 1 << 40
_SHOWN = 5
#: The setting of a model that says which version may answer.
_APPROVED = "approvedVersion"
Verdict = Literal["promote", "refuse", "wait"]


@dataclass(frozen=True)
class SequentialTest:
    """Wald's test of a share.

    Args:
        good: A share that must not be refused, below 1.
        bad: A share that must not be accepted, above 0 and below `good`.
        alpha: Largest probability of refusing a good share, that of the latest end included.
        beta: Largest probability of accepting a bad one.
    """

    good: float
    bad: float
    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not 0 < self.bad < self.good < 1:
            raise ValueError(f"0 < bad < good < 1 must hold, got {self.bad:g} and {self.good:g}")

    def evidence(self, successes: int, trials: int) -> float:
        """The logarithm of the likelihood of `bad` over that of `good`."""
        failures = trials - successes
        return successes * math.log(self.bad / self.good) + failures * math.log((1 - self.bad) / (1 - self.good))

    def verdict(self, successes: int, trials: int) -> bool | None:
        """Say whether the share is good enough; None while it is not decided."""
        evidence = self.evidence(successes, trials)
        if evidence >= math.log(2 / self.alpha):
            return False
        return True if evidence <= -math.log(1 / self.beta) else None

    def overdue(self, trials: int) -> float:
        """How probable it is, at most, that a good share is not accepted by the end of so many inputs."""
        # Accepted is everything from so many successes on.
        slope = math.log((1 - self.bad) / (1 - self.good)) + math.log(self.good / self.bad)
        least = math.ceil(
            (trials * math.log((1 - self.bad) / (1 - self.good)) + math.log(1 / self.beta)) / slope - 1e-9
        )
        return _binomial_below(least, trials, self.good)

    @cache  # noqa: B019 - a frozen value, of which there are few
    def latest(self) -> int:
        """The least number of inputs by the end of which a good share is accepted often enough."""
        low, high = 0, 1
        while self.overdue(high) > self.alpha / 2:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.overdue(middle) <= self.alpha / 2 else (middle, high)
        return high


def _binomial_below(count: int, trials: int, share: float) -> float:
    """The probability of fewer successes than `count`, or 1 where that is about a half or more."""
    place = count - 1
    if place >= trials * share:
        return 1.0
    total, term = 0.0, 0.0
    if place >= 0:
        chosen = math.lgamma(trials + 1) - math.lgamma(place + 1) - math.lgamma(trials - place + 1)
        term = math.exp(chosen + place * math.log(share) + (trials - place) * math.log1p(-share))
    # Below the mean each term is smaller than the one above it.
    while place >= 0 and term > total * 1e-17:
        total += term
        term *= place / (trials - place + 1) * (1 - share) / share
        place -= 1
    return total


@dataclass(frozen=True)
class Sketch:
    """What comparisons gave, in sums: those of several devices are added.

    Args:
        inputs: Compared.
        agreed: Of those, with the same answer.
        labelled: Inputs whose truth is known.
        right: Of those, that the candidate got right.
        current_right: Of those, that the current model got right.
        ratios: Bin of the candidate's latency over the current one's, rounded up to a whole number of eighths of a
            doubling, to inputs.
        shifts: Bin of the candidate's confidence less the current one's, in tenths, to inputs.
        memory_mb: That the candidate takes, the largest of the devices.
        differed: What differed most: `device`, `id`, `current`, `candidate`, `by`.
    """

    inputs: int = 0
    agreed: int = 0
    labelled: int = 0
    right: int = 0
    current_right: int = 0
    ratios: Mapping[int, int] = field(default_factory=dict)
    shifts: Mapping[int, int] = field(default_factory=dict)
    memory_mb: float = 0
    differed: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def read(cls, found: Any, device: str) -> "Sketch":
        """Read what a device says; it may say anything.

        Args:
            found: A `candidate` of a heartbeat.
            device: Its thing name.

        Raises:
            ValueError: It is no sketch.
        """
        try:
            sketch = cls(
                inputs=_count(found["inputs"]),
                agreed=_count(found["agreed"]),
                labelled=_count(found["labelled"]),
                right=_count(found["right"]),
                current_right=_count(found["current_right"]),
                ratios=_bins(found["ratios"]),
                shifts=_bins(found["shifts"]),
                memory_mb=min(max(float(found["memory_mb"]), 0.0), 1e9),
                differed=tuple({**_difference(each), "device": device} for each in found["differed"][:_SHOWN]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise ValueError(f"{device} tells no sketch: {type(exc).__name__}: {exc}") from exc
        parts = (sketch.agreed, sketch.labelled, sum(sketch.ratios.values()), sum(sketch.shifts.values()))
        if max(parts) > sketch.inputs or max(sketch.right, sketch.current_right) > sketch.labelled:
            raise ValueError(f"{device} tells no sketch: no part may be above inputs {sketch.inputs}, got {parts}")
        if math.isnan(sketch.memory_mb):
            raise ValueError(f"{device} tells no sketch: memory_mb must be a number")
        return sketch

    def __add__(self, other: "Sketch") -> "Sketch":
        differed = sorted((*self.differed, *other.differed), key=lambda each: -float(each["by"]))
        return Sketch(
            self.inputs + other.inputs,
            self.agreed + other.agreed,
            self.labelled + other.labelled,
            self.right + other.right,
            self.current_right + other.current_right,
            _added(self.ratios, other.ratios),
            _added(self.shifts, other.shifts),
            max(self.memory_mb, other.memory_mb),
            tuple(differed[:_SHOWN]),
        )

    def in_time(self, ratio: float) -> tuple[int, int]:
        """How many inputs took at most so many times the current model's time, and of how many."""
        # A bin counts as in time only as a whole; what is at the limit by less than a millionth is at it.
        last = math.floor(math.log2(ratio) * RATIO_BINS + 1e-6)
        return sum(count for place, count in self.ratios.items() if place <= last), sum(self.ratios.values())


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MOST_COUNT:
        raise ValueError(f"a count must be a whole number from 0, got {value!r:.40}")
    return value


def _bins(found: Mapping[str, Any]) -> dict[int, int]:
    if len(found) > _MOST_BINS:
        raise ValueError(f"there must be at most {_MOST_BINS} bins, got {len(found)}")
    return {int(place): _count(count) for place, count in found.items()}


def _difference(found: Mapping[str, Any]) -> dict[str, Any]:
    texts = {name: str(found.get(name, ""))[:40] for name in ("id", "current", "candidate")}
    return {**texts, "by": float(found["by"])}


def _added(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    return {place: first.get(place, 0) + second.get(place, 0) for place in sorted({*first, *second})}


@dataclass(frozen=True)
class Rules:
    """What a candidate must reach.

    Args:
        agreement: Share of inputs with the current model's answer; 0: not looked at.
        accuracy: Share of labelled inputs that it gets right; 0: not looked at.
        zone: So far below agreement and accuracy a candidate must not be accepted.
        latency_ratio: The median of its time over the current model's at most; 0: not looked at.
        memory_mb: At most; 0: not looked at.
        inputs: After so many it is decided at the latest.
        alpha: Largest probability of refusing a candidate that reaches everything.
        beta: Largest probability of accepting one that misses something by the zone.
    """

    agreement: float = 0.95
    accuracy: float = 0.0
    zone: float = 0.05
    latency_ratio: float = 1.5
    memory_mb: float = 0.0
    inputs: int = 1000
    alpha: float = 0.05
    beta: float = 0.05

    @property
    def tests(self) -> dict[str, SequentialTest]:
        """The tests by what they look at; what may be refused wrongly is divided among them."""
        ends = {
            "agreement": (self.agreement, self.agreement - self.zone),
            "accuracy": (self.accuracy, self.accuracy - self.zone),
            "latency": (IN_TIME, TOO_LATE) if self.latency_ratio else (0.0, 0.0),
        }
        wanted = {name: pair for name, pair in ends.items() if pair[0]}
        return {
            name: SequentialTest(good, bad, self.alpha / len(wanted), self.beta) for name, (good, bad) in wanted.items()
        }

    def check(self) -> None:
        """Refuse rules under which a good candidate would be refused too often.

        Raises:
            ValueError: The text names what to change.
        """
        tests = self.tests
        if not tests and not self.memory_mb:
            raise ValueError("agreement, accuracy, latency_ratio or memory_mb must be above 0: nothing is looked at")
        for name, test in tests.items():
            if (least := test.latest()) > self.inputs:
                raise ValueError(
                    f"inputs must be at least {least}, so that {name} is decided with alpha {self.alpha:g}, beta "
                    f"{self.beta:g} and zone {self.zone:g}, got {self.inputs}"
                )


@dataclass(frozen=True)
class Decision:
    """What becomes of a candidate.

    Args:
        verdict: `wait` while it is not decided.
        reasons: Why, a line a criterion.
    """

    verdict: Verdict
    reasons: tuple[str, ...]


def decide(rules: Rules, sketch: Sketch, *, is_last: bool = False) -> Decision:
    """Decide on a candidate.

    Args:
        rules: What it must reach.
        sketch: Of all devices of the ring.
        is_last: Whether the time is over: what is not accepted is refused.
    """
    found = {
        "agreement": (sketch.agreed, sketch.inputs),
        "accuracy": (sketch.right, sketch.labelled),
        "latency": sketch.in_time(rules.latency_ratio) if rules.latency_ratio else (0, 0),
    }
    is_last = is_last or sketch.inputs >= rules.inputs
    states: list[bool | None] = []
    reasons = []
    for name, test in rules.tests.items():
        count, trials = found[name]
        state = test.verdict(count, trials)
        few = name == "accuracy" and state is None and trials < test.latest()
        if few and is_last:
            # Labels come where there are some; what is too few for a decision decides nothing.
            reasons.append(f"accuracy not looked at: {trials} labelled inputs, it takes {test.latest()}")
            continue
        states.append(state)
        reasons.append(_said(rules, name, count, trials, state))
    if rules.memory_mb and (sketch.inputs or sketch.memory_mb):
        states.append(sketch.memory_mb <= rules.memory_mb)
        reasons.append(f"memory {sketch.memory_mb:.0f} MB, at most {rules.memory_mb:.0f}")
    if False in states:
        verdict: Verdict = "refuse"
    elif states and all(states):
        verdict = "promote"
    else:
        verdict = "refuse" if is_last else "wait"
    return Decision(verdict, tuple(reasons))


def _said(rules: Rules, name: str, count: int, trials: int, state: bool | None) -> str:
    fate = {True: "reached", False: "missed", None: "not decided"}[state]
    share = f"{count / trials:.3f}" if trials else "unknown"
    if name == "latency":
        ratio = f"{rules.latency_ratio:g} times the current model's time"
        return f"share within {ratio} {share} of {trials} inputs, must be half: {fate}"
    wanted = rules.agreement if name == "agreement" else rules.accuracy
    return f"{name} {share} on {trials} inputs, must be at least {wanted:g}: {fate}"


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """Add sketches up."""
    total = Sketch()
    for sketch in sketches:
        total = total + sketch
    return total


def named(differed: Sequence[Mapping[str, Any]]) -> str:
    """The inputs that differed most, for an error's text."""
    return ", ".join(
        f"{each['device']}/{each['id']} ({each['current']} → {each['candidate']})" for each in differed[:_SHOWN]
    )


def approved(content: Mapping[str, Any], candidates: Mapping[str, str]) -> dict[str, Any]:
    """The content of a deployment that lets candidates answer.

    Args:
        content: Of the deployment that brought them; one of its components carries all settings.
        candidates: Model to version.

    Raises:
        ValueError: No component carries the settings of a model.
    """
    components = dict(content["components"])
    for name, wanted in components.items():
        update = wanted.get("configurationUpdate") or {}
        merge = json.loads(update.get("merge") or "{}")
        settings = merge.get("settings") or {}
        serving = [each["models"] for each in settings.values() if isinstance(each, dict) and "models" in each]
        if not serving:
            continue
        for models in serving:
            for model, version in candidates.items():
                models[model] = {**models.get(model, {}), _APPROVED: version}
        # Devices tell a component of the last key that changes.
        settings["revision"] = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        components[name] = {**wanted, "configurationUpdate": {**update, "merge": json.dumps(merge)}}
        return {**content, "components": components}
    raise ValueError(f"a component of the deployment must have settings of {', '.join(candidates)}, none has")
