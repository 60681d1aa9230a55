"""The plan as a page, of every agreed plan."""

import re
from pathlib import Path

import pytest

from tests.plan.test_plan import GOLDEN, assemblies
from tests.unit.kept_page import assert_kept
from tools.plan import as_page, main


@pytest.mark.parametrize("golden", sorted(GOLDEN.glob("*.md")), ids=lambda path: path.stem)
def test_every_plan_is_a_page_with_all_of_its_words(golden: Path) -> None:
    markdown = "### " + golden.read_text(encoding="utf-8").partition("\n### ")[2]

    found = assert_kept(as_page(markdown, "now and then"))

    text = " ".join("".join(found.text).split())
    assert text.count("### ") == 0
    assert "&lt;" not in text
    assert "[!CAUTION]" not in text
    assert ("Not announced:" in text) == ("[!CAUTION]" in markdown)
    assert len(found.all("table")) == markdown.count("--:|\n")
    assert [line for line in markdown.splitlines() if re.match("- [-+] ", line)] == []  # a list in the list
    assert len(found.all("details")) == markdown.count("<details>")


def test_a_name_is_no_markup() -> None:
    text = as_page("### Fleet plan: dev\n\n- `<script>alert(1)</script>` <img src=x onerror=y>\n", "x")

    assert_kept(text)


def test_the_command_writes_it(tmp_path: Path) -> None:
    before, after = assemblies(tmp_path, "removal")

    main(["--before", str(before), "--after", str(after), "--html", str(tmp_path / "plan.html"), "--stage", "plant"])

    text = (tmp_path / "plan.html").read_text(encoding="utf-8")
    assert_kept(text)
    assert f"devices that have {before}" in text
