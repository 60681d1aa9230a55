"""The tables of what nucleus lite takes and of what the twin does otherwise, and what they point at."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from edge_rules.edge_checks import RULES
from nucleus_lite import RELEASE, Fact, configuration, deployment, ipc, recipe
from tests.core_device.test_dialect import QUIRKS
from tests.nucleus_lite.differences import TABLES, Difference

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "twin.md"
FACTS = [
    fact
    for module in (recipe, configuration, deployment, ipc)
    for fact in vars(module).values()
    if isinstance(fact, Fact)
]
#: The lines of the page around the table.
BEGIN = "<!-- printed from nucleus_lite: UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/nucleus_lite -->"
END = "<!-- end of the table -->"
_HEAD = f"""| # | on nucleus lite {RELEASE} | source | rule at synth | what one sees on the twin | shown by |
|---|---|---|---|---|---|
"""


def as_markdown() -> str:
    """Write the table."""
    rows = [
        [
            str(number),
            fact.text,
            fact.source,
            f"`Edge-{fact.rule}`" if fact.rule else "",
            fact.twin,
            f"`{fact.shown_by}`" if "::" in fact.shown_by else fact.shown_by,
        ]
        for number, fact in enumerate(FACTS, 1)
    ]
    return _HEAD + "".join("| " + " | ".join(map(_cell, row)) + " |\n" for row in rows)


def differences(heads: Sequence[str], rows: Sequence[Difference]) -> str:
    """Write a table of what the two do otherwise."""
    cells = [[*row.real.split("|"), row.twin, f"`{row.shown_by}`" if row.shown_by else ""] for row in rows]
    head = f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n"
    return head + "".join(f"| {' | '.join(map(_cell, row))} |\n" for row in cells)


def with_tables(page: str) -> str:
    """Put the tables into a page, each between its two lines, in the order of the page.

    Args:
        page: Its text.
    """
    (device, ipc_) = (differences(*table) for table in TABLES)
    parts = page.split(BEGIN + "\n")
    tables = (device, as_markdown(), ipc_)
    if len(parts) != len(tables) + 1:
        raise ValueError(f"the page must have {len(tables)} places for tables, got {len(parts) - 1}")
    filled = [f"{BEGIN}\n{table}{END}{part.partition(END)[2]}" for table, part in zip(tables, parts[1:], strict=True)]
    return parts[0] + "".join(filled)


def _cell(text: str) -> str:
    # Outside of code, angle brackets would be taken for HTML; a bar ends the cell everywhere.
    pieces = text.replace("|", "\\|").split("`")
    pieces[::2] = [piece.replace("<", "&lt;").replace(">", "&gt;") for piece in pieces[::2]]
    return "`".join(pieces)


def test_the_page_is_current() -> None:
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/nucleus_lite"


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.text)
def test_a_fact_names_a_rule_a_component_or_a_test_that_there_is(fact: Fact) -> None:
    assert fact.rule or fact.shown_by
    assert not fact.rule or f"Edge-{fact.rule}" in RULES
    file, _, test = fact.shown_by.partition("::")
    if test:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M)
    else:
        assert not file or file in QUIRKS


@pytest.mark.parametrize("difference", [each for _, rows in TABLES for each in rows], ids=lambda each: each.real)
def test_a_difference_names_a_test_that_there_is_or_is_not_there(difference: Difference) -> None:
    file, _, test = difference.shown_by.partition("::")

    if test:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M)
    else:
        assert re.match("not there|taken as done", difference.twin)


def test_a_page_without_a_place_for_each_table_is_refused() -> None:
    with pytest.raises(ValueError, match="must have 3 places for tables, got 0"):
        with_tables("no place")


def test_what_works_on_classic_and_not_on_lite_is_in_the_table() -> None:
    shown = {fact.shown_by for fact in FACTS}

    assert {name for name in QUIRKS if name not in shown} <= SHOWN_BY_ANOTHER


#: Further components of a fact that another one shows already.
SHOWN_BY_ANOTHER = {
    "a shell function",
    "JSON in a script",
    "a number in setenv",
    "a quote in setenv",
    "a deployed value above 1 kB",
    "a default value whose escapes are above 1 kB",
    "a default list above 1 kB",
    "a deployed configuration of 13 levels",
}
