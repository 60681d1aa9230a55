"""Whom a promotion takes: error rates of the sequential test, sums of sketches, and what devices may say."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from benchmarks.promotion import CANDIDATES, RULES, runs
from edge_handlers.promotion import RATIO_BINS, Rules, SequentialTest, Sketch, decide, merged, named

RUNS = 60
SAID: dict[str, Any] = {
    "inputs": 40,
    "agreed": 38,
    "labelled": 10,
    "right": 9,
    "current_right": 8,
    "ratios": {"-1": 30, "3": 10},
    "shifts": {"0": 40},
    "memory_mb": 12.5,
    "differed": [{"id": "a", "current": "7", "candidate": "1", "by": 0.8}],
}
CASES = [(rules, name) for rules, (_, wanted) in RULES.items() for name in wanted]


@pytest.mark.parametrize(("rules", "name"), CASES)
def test_wrong_decisions_are_within_the_stated_rates(rules: str, name: str) -> None:
    stated, wanted = RULES[rules]
    rate = stated.alpha if wanted[name] else stated.beta

    wrong = sum(taken != wanted[name] for taken, _ in runs(stated, CANDIDATES[name], RUNS, seed=7))

    # Three standard deviations above what the stated rate allows.
    assert wrong <= RUNS * rate + 3 * math.sqrt(RUNS * rate * (1 - rate))


def test_a_test_keeps_its_rates_at_the_very_ends_of_its_zone() -> None:
    test = SequentialTest(good=0.95, bad=0.90, alpha=0.05, beta=0.05)

    assert crossed(test, 0.95, False) <= 0.025
    assert crossed(test, 0.90, True) <= 0.05
    # The bound is no waste: at the bad end the test comes near its rate.
    assert crossed(test, 0.90, True) > 0.02


def crossed(test: SequentialTest, share: float, verdict: bool, trials: int = 3000) -> float:
    """How probable a verdict is when every input is looked at: exact, by the states that are not decided."""
    states, found = {0: 1.0}, 0.0
    for number in range(1, trials + 1):
        after: dict[int, float] = {}
        for successes, probability in states.items():
            for more, chance in ((1, share), (0, 1 - share)):
                said = test.verdict(successes + more, number)
                if said is None:
                    after[successes + more] = after.get(successes + more, 0.0) + probability * chance
                elif said is verdict:
                    found += probability * chance
        states = after
    return found


def test_the_latest_end_refuses_few_good_shares() -> None:
    test = SequentialTest(good=0.95, bad=0.90, alpha=0.05, beta=0.05)

    end = test.latest()

    assert test.overdue(end) <= 0.025 < test.overdue(end - 60)
    # scipy.stats.binom.cdf(560, 600, 0.95) says the same.
    assert test.overdue(600) == pytest.approx(0.0420465, rel=1e-5)
    assert test.overdue(1) == 1.0


def test_sums_of_devices_are_what_one_device_would_say() -> None:
    halves = [Sketch.read(SAID, "one"), Sketch.read({**SAID, "memory_mb": 20, "differed": []}, "two")]

    total = merged(halves)

    assert (total.inputs, total.agreed, total.labelled, total.right) == (80, 76, 20, 18)
    assert total.ratios == {-1: 60, 3: 20}
    assert total.memory_mb == 20
    assert named(total.differed) == "one/a (7 → 1)"
    assert total == merged(reversed(halves))


def test_a_bin_counts_as_in_time_only_as_a_whole() -> None:
    sketch = Sketch(inputs=4, ratios={0: 1, RATIO_BINS // 2: 1, RATIO_BINS: 2})

    assert sketch.in_time(1.0) == (1, 4)
    assert sketch.in_time(1.4) == (1, 4)
    assert sketch.in_time(math.sqrt(2)) == (2, 4)
    assert sketch.in_time(2.0) == (4, 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": -1}, "whole number from 0, got -1"),
        ({"inputs": True}, "got True"),
        ({"inputs": 1 << 60}, "whole number"),
        ({"agreed": 41}, "no part may be above inputs 40"),
        ({"right": 11}, "no part may be above"),
        ({"ratios": {"x": 1}}, "invalid literal"),
        ({"ratios": [1]}, "no attribute"),
        ({"ratios": {str(number): 1 for number in range(201)}}, "at most 200 bins"),
        ({"ratios": {"1": 41}}, "no part may be above"),
        ({"memory_mb": math.nan}, "memory_mb must be a number"),
        ({"memory_mb": None}, "TypeError"),
        ({"differed": [7]}, "AttributeError"),
        ({"differed": None}, "TypeError"),
    ],
)
def test_what_is_no_sketch_is_told_with_its_device(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"press-1 tells no sketch: .*{told}"):
        Sketch.read(SAID | change, "press-1")
    with pytest.raises(ValueError, match="press-1 tells no sketch"):
        Sketch.read(None, "press-1")


def test_a_sketch_reads_what_json_carries() -> None:
    assert Sketch.read(json.loads(json.dumps(SAID)), "one").shifts == {0: 40}


def test_nothing_is_decided_by_nothing_and_the_end_refuses() -> None:
    assert decide(Rules(), Sketch()).verdict == "wait"

    decision = decide(Rules(), Sketch(), is_last=True)

    assert decision.verdict == "refuse"
    assert decision.reasons[0] == "agreement unknown on 0 inputs, must be at least 0.95: not decided"


def test_too_few_labels_decide_nothing_but_many_wrong_answers_do() -> None:
    rules = Rules(accuracy=0.9, latency_ratio=0)
    sketch = Sketch(inputs=1000, agreed=1000, labelled=20, right=20)

    decision = decide(rules, sketch)

    assert decision.verdict == "promote"
    assert decision.reasons[1].startswith("accuracy not looked at: 20 labelled inputs, it takes ")
    assert decide(rules, Sketch(inputs=1000, agreed=1000, labelled=20, right=2)).verdict == "refuse"


def test_memory_is_looked_at_at_once() -> None:
    decision = decide(Rules(memory_mb=100), Sketch(inputs=1, agreed=1, memory_mb=101))

    assert decision.verdict == "refuse"
    assert decision.reasons[-1] == "memory 101 MB, at most 100"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (Rules(inputs=100), "inputs must be at least 816, so that agreement is decided with alpha 0.05"),
        (Rules(agreement=0, latency_ratio=0), "nothing is looked at"),
        (Rules(agreement=1.0), "0 < bad < good < 1 must hold, got 0.95 and 1"),
        (Rules(zone=0.95), "0 < bad < good < 1 must hold"),
    ],
)
def test_rules_that_could_not_be_kept_are_refused(rules: Rules, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        rules.check()
