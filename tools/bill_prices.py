"""The price table."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

PRICES = Path(__file__).resolve().parents[1] / "config" / "tables" / "prices.toml"


@dataclass(frozen=True)
class Prices:
    """Prices in US dollars with the day they stand for.

    Attributes:
        date: That day.
        compared: Whether somebody compared them with AWS's price pages on that day.
        tables: Service to its prices; `factors` and `assumptions` are tables of their own.
        hours: Hours a month.
    """

    date: date
    compared: bool
    tables: Mapping[str, Mapping[str, float]]
    hours: float

    @property
    def standing(self) -> str:
        """How far the prices may be trusted, for whoever reads a sum."""
        return f"prices of {self.date}" + ("" if self.compared else ", not compared with AWS's price pages")

    def price(self, table: str, name: str, region: str) -> float:
        """Give a price.

        Raises:
            ValueError: The table does not have it, or knows no factor for the region.
        """
        if region not in self.tables["factors"]:
            known = ", ".join(self.tables["factors"])
            raise ValueError(
                f"config/tables/prices.toml: factors must name the region {region}, it has {known}: add it"
            )
        if name not in self.tables.get(table, {}):
            raise ValueError(f"config/tables/prices.toml: [{table}] must have a price for {name}: add it")
        return self.tables[table][name] * self.tables["factors"][region]

    def assumed(self, name: str) -> float:
        """Give an assumption about use."""
        return self.tables["assumptions"][name]


def read_prices(path: Path = PRICES) -> Prices:
    """Read a price table.

    Raises:
        ValueError: It is no TOML, lacks the date or whether it was compared, or a figure is missing or negative.
    """
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as exc:
        raise ValueError(f"{path.name}: must be TOML: {exc}") from exc
    tables = {name: table for name, table in content.items() if isinstance(table, dict)}
    for name in ("factors", "assumptions"):
        if name not in tables:
            raise ValueError(f"{path.name}: must have a table [{name}]")
    for name, table in tables.items():
        for key, value in table.items():
            if not isinstance(value, (int, float)) or value < 0:
                raise ValueError(f"{path.name}: {name}.{key}: must be a number of at least 0, got {value!r}")
    try:
        day = date.fromisoformat(content.get("date", ""))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"{path.name}: date: must be a day as 2026-11-01, got {content.get('date')!r}") from exc
    compared = content.get("compared")
    if not isinstance(compared, bool):
        raise ValueError(f"{path.name}: compared: must be true or false, got {compared!r}")
    return Prices(day, compared, tables, float(content.get("hours_a_month", 730)))
