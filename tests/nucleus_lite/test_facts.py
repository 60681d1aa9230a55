"""The table of what nucleus lite takes, and what it points at."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edge_rules.rule_book import RULES
from nucleus_lite import RELEASE, Fact, configuration, deployment, ipc, recipe, unit
from tests.core_device.test_dialect import QUIRKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "twin.md"
FACTS = [
    fact
    for module in (recipe, configuration, unit, deployment, ipc)
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


def with_table(page: str) -> str:
    """Put the table into a page, between its two lines.

    Args:
        page: Its text.
    """
    before, _, rest = page.partition(BEGIN + "\n")
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{as_markdown()}{END}{after}"


def _cell(text: str) -> str:
    # Outside of code, angle brackets would be taken for HTML; a bar ends the cell everywhere.
    pieces = text.replace("|", "\\|").split("`")
    pieces[::2] = [piece.replace("<", "&lt;").replace(">", "&gt;") for piece in pieces[::2]]
    return "`".join(pieces)


def test_the_page_is_current() -> None:
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/nucleus_lite"


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.text)
def test_a_fact_names_a_rule_a_component_or_a_test_that_there_is(fact: Fact) -> None:
    assert fact.rule or fact.shown_by
    assert not fact.rule or f"Edge-{fact.rule}" in RULES
    file, _, test = fact.shown_by.partition("::")
    if test:
        assert re.search(rf"^(async )?def {test}\(", (ROOT / "tests" / file).read_text(encoding="utf-8"), re.M)
    else:
        assert not file or file in QUIRKS


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
