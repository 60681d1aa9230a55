"""Whom the promotion takes: simulated candidates, wrong decisions, and how many inputs each took.

    .venv/bin/python benchmarks/promotion.py [--runs 200]

Answers are drawn input by input, and looked at after every 25, as heartbeats bring them. The runs are seeded.
"""

import argparse
import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

for root in (".", "constructs"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / root))

from edge_handlers.promotion import RATIO_BINS, Rules, Sketch, decide

A_LOOK = 25
#: The current model's share of right answers.
ACCURACY = 0.97


@dataclass(frozen=True)
class Candidate:
    """A model that is simulated.

    Attributes:
        wins: Share of inputs that it alone gets right.
        losses: Share of inputs that the current model alone gets right.
        ratio: Median of its latency over the current one's; single ratios are spread by 15 % around it.
        memory_mb: What it takes.
    """

    wins: float = 0.0
    losses: float = 0.0
    ratio: float = 1.0
    memory_mb: float = 60.0


CANDIDATES = {
    "the same model": Candidate(),
    "better by 1 %": Candidate(wins=0.015, losses=0.005),
    "worse by 2 %": Candidate(wins=0.01, losses=0.03),
    "worse by 10 %": Candidate(wins=0.01, losses=0.11),
    "twice as slow": Candidate(ratio=2.0),
    "too much memory": Candidate(memory_mb=140.0),
}
#: Rules by name, and of each candidate whether it must be taken.
BY_LABELS = Rules(accuracy=ACCURACY, zone=0.02, memory_mb=100, inputs=5000)
BY_AGREEMENT = Rules(memory_mb=100)
RULES: Mapping[str, tuple[Rules, Mapping[str, bool]]] = {
    "labels known, zone 0.02": (BY_LABELS, {name: number < 2 for number, name in enumerate(CANDIDATES)}),
    # Agreement alone cannot tell 2 % worse from 2 % better.
    "no labels, the defaults": (
        BY_AGREEMENT,
        {name: number < 2 for number, name in enumerate(CANDIDATES) if name != "worse by 2 %"},
    ),
}


def look(candidate: Candidate, chance: random.Random, *, labelled: bool) -> Sketch:
    """Compare as many inputs as come between two looks."""
    agreed = right = current_right = 0
    ratios: Counter[int] = Counter()
    for _ in range(A_LOOK):
        current = is_right = chance.random() < ACCURACY
        if current and chance.random() < candidate.losses / ACCURACY:
            is_right = False
        elif not current and chance.random() < candidate.wins / (1 - ACCURACY):
            is_right = True
        agreed += is_right == current
        right += is_right
        current_right += current
        ratios[math.ceil(RATIO_BINS * math.log2(candidate.ratio * math.exp(chance.gauss(0, 0.15))))] += 1
    known = (A_LOOK, right, current_right) if labelled else (0, 0, 0)
    return Sketch(A_LOOK, agreed, *known, ratios=ratios, memory_mb=candidate.memory_mb)


def runs(rules: Rules, candidate: Candidate, count: int, seed: int) -> Iterator[tuple[bool, int]]:
    """Decide on a candidate again and again.

    Yields:
        Whether it was taken, and after how many inputs.
    """
    for number in range(count):
        chance, total = random.Random(f"{seed} {number}"), Sketch()  # noqa: S311 - a simulation
        while True:
            total = total + look(candidate, chance, labelled=bool(rules.accuracy))
            if (found := decide(rules, total).verdict) != "wait":
                yield found == "promote", total.inputs
                break


def main() -> int:
    """Simulate, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=200, help="of each candidate (default: %(default)s)")
    options = parser.parse_args()
    wrong_anywhere = False
    for title, (rules, wanted) in RULES.items():
        rules.check()
        print(f"### {title}\n\n{_said(rules)}\n")
        print("| candidate | right | taken | wrong decisions | stated | inputs: median | 95 % | most |")
        print("|---|---|--:|--:|--:|--:|--:|--:|")
        for name, right in wanted.items():
            found = list(runs(rules, CANDIDATES[name], options.runs, seed=1))
            taken = sum(each for each, _ in found)
            wrong = options.runs - taken if right else taken
            inputs = sorted(count for _, count in found)
            stated = rules.alpha if right else rules.beta
            wrong_anywhere |= wrong > stated * options.runs
            most = inputs[-1]
            print(
                f"| {name} | {'yes' if right else 'no'} | {taken} of {options.runs} | {wrong / options.runs:.1%} | "
                f"≤ {stated:.0%} | {statistics.median(inputs):.0f} | {inputs[int(0.95 * len(inputs))]} | {most} |"
            )
        print()
    return int(wrong_anywhere)


def _said(rules: Rules) -> str:
    fields = vars(rules)
    return ", ".join(f"`{name} = {value:g}`" for name, value in fields.items() if value)


if __name__ == "__main__":
    sys.exit(main())
