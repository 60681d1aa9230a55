"""The page of the rules is the one that the rules give."""

import os
from pathlib import Path

from edge_rules.edge_checks import as_markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "edge-rules.md"


def test_the_page_is_current() -> None:
    if os.environ.get("UPDATE_SNAPSHOTS") == "1":
        PAGE.write_text(as_markdown(), encoding="utf-8")

    assert as_markdown() == PAGE.read_text(encoding="utf-8"), "UPDATE_SNAPSHOTS=1 .venv/bin/pytest tests/edge_rules"
