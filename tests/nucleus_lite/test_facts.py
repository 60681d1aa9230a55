"""The table of what nucleus lite takes, and what it points at."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edge_rules.rule_book import RULES
from nucleus_lite.fact import Fact
from nucleus_lite.table import FACTS, with_table
from tests.core_device.test_dialect import QUIRKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "twin.md"


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
