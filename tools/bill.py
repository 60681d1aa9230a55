"""What a stage costs in a month, from its templates and the price table `config/tables/prices.toml`.

python -m tools.bill cdk.out        one cloud assembly
python -m tools.bill --stage prod   synthesises the stage first
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from tools.bill_items import Item, items, region_of
from tools.bill_prices import PRICES, Prices, read_prices
from tools.plan_assembly import read_assembly


@dataclass(frozen=True)
class Bill:
    """A month of one stage.

    Attributes:
        region: Where it runs.
        prices: The price table.
        items: What it consists of.
    """

    region: str
    prices: Prices
    items: tuple[Item, ...]

    @property
    def total(self) -> float:
        """Sum, US dollars."""
        return sum(each.usd for each in self.items)

    def text(self) -> str:
        """Write the bill for a terminal, with what it assumes."""
        lines = [f"a month in {self.region}, list {self.prices.standing}, without free tiers:"]
        lines += [f"  {each.usd:9.2f} USD  {each.name:28} {each.basis}" for each in self.items]
        lines += [f"  {self.total:9.2f} USD  in all, with", f"                 {_assumed(self.prices)}"]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class BillDifference:
    """The bills before and after a change."""

    before: Bill
    after: Bill

    def changed(self) -> list[tuple[str, float, float]]:
        """Name, US dollars before and after, of every item that differs by a cent or more."""
        old, new = ({each.name: each.usd for each in bill.items} for bill in (self.before, self.after))
        rows = [(name, old.get(name, 0.0), new.get(name, 0.0)) for name in dict.fromkeys([*old, *new])]
        return [row for row in rows if abs(row[1] - row[2]) >= 0.01]

    def text(self) -> str:
        """One line a change, for a terminal."""
        head = f"bill: {self.before.total:.2f} → {self.after.total:.2f} USD a month ({self.after.prices.standing})"
        return "\n".join([head, *(f"  {name}: {old:.2f} → {new:.2f}" for name, old, new in self.changed())]) + "\n"

    def markdown(self) -> str:
        """A section of a pull request's comment."""
        change = self.after.total - self.before.total
        lines = [f"**Bill**: {self.after.total:.2f} USD a month in {self.after.region} ({change:+.2f})"]
        if rows := self.changed():
            lines += ["", "| item | before | after |", "|---|--:|--:|"]
            lines += [f"| {name} | {old:.2f} | {new:.2f} |" for name, old, new in rows]
        lines += ["", f"<sub>List {self.after.prices.standing}; {_assumed(self.after.prices)}.</sub>"]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The difference for a program."""
        return {
            "currency": "USD",
            "prices_of": self.after.prices.date.isoformat(),
            "prices_compared": self.after.prices.compared,
            "before": round(self.before.total, 2),
            "after": round(self.after.total, 2),
            "changed": [{"item": name, "before": old, "after": new} for name, old, new in self.changed()],
        }


def bill_of(folder: Path, prices: Prices | None = None) -> Bill:
    """Estimate the bill of a cloud assembly.

    Args:
        folder: A `cdk.out`.
        prices: The price table; by default the repository's.

    Raises:
        ValueError: The table has no price for something in the templates.
    """
    prices = prices or _prices()
    assembly = read_assembly(folder)
    region = region_of(folder, prices)
    return Bill(region, prices, tuple(items(assembly, prices, region)))


def difference(before: Path, after: Path) -> BillDifference:
    """Estimate the bills of two cloud assemblies with the same prices."""
    return BillDifference(bill_of(before), bill_of(after))


@cache
def _prices() -> Prices:
    return read_prices(PRICES)


def _assumed(prices: Prices) -> str:
    assumptions: Mapping[str, float] = prices.tables["assumptions"]
    return "assumed: " + ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in assumptions.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.bill", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("assembly", nargs="?", type=Path, help="a cdk.out")
    parser.add_argument("--stage", help="synthesise this stage in place of an assembly")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    from tools.plan import ROOT, PlanError, synth  # plan shows the bill's difference: imported when both are there

    try:
        with tempfile.TemporaryDirectory(prefix="edgewright-bill-") as made:
            folder = options.assembly or synth(ROOT, options.stage or "dev", Path(made) / "cdk.out")
            bill = bill_of(folder)
    except (PlanError, OSError, ValueError) as exc:
        print(f"bill: {exc}", file=sys.stderr)
        return 1
    if options.json:
        rows = [{"item": each.name, "usd": round(each.usd, 4), "basis": each.basis} for each in bill.items]
        print(json.dumps({"region": bill.region, "total": round(bill.total, 2), "items": rows}, indent=1))
    else:
        print(bill.text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
