"""Whoever reads a decision learns whether it still holds."""

import re
from pathlib import Path

import pytest

from tests.docs.documented_commands import ROOT

FOLDER = ROOT / "docs" / "decisions"
FILES = sorted(FOLDER.glob("[0-9]*.md"))
STATUS = re.compile(r"accepted|superseded (?:in part )?by \[(?P<number>\d{4})\]\((?P<file>[^)]+)\)")


def head_of(file: Path) -> tuple[str, str]:
    """Title and status of a decision, its second and first line of text."""
    title, blank, status, *_ = file.read_text(encoding="utf-8").splitlines()
    assert not blank
    assert title.startswith(f"# {file.name[:4]}: ")
    assert status.startswith("Status: ")
    return title.partition(": ")[2], status.removeprefix("Status: ")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_decision_has_a_status_and_what_supersedes_it_is_later(file: Path) -> None:
    _, status = head_of(file)

    found = STATUS.fullmatch(status)

    assert found, f"a status must be accepted, superseded by or superseded in part by a decision, got {status!r}"
    if found["number"]:
        assert (FOLDER / found["file"]).is_file()
        assert found["file"].startswith(found["number"])
        assert found["number"] > file.name[:4]


def test_a_number_is_given_once() -> None:
    numbers = [file.name[:4] for file in FILES]

    assert len(numbers) == len(set(numbers))


def test_the_table_has_each_decision_as_its_page_says() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")

    rows = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.+?) \| (.+?) \| (\S.*\S) \|$", text, re.MULTILINE)

    expected = [(file.name[:4], file.name, *head_of(file)) for file in FILES]
    assert [row[:4] for row in rows] == expected
