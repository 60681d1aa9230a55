"""The table of all facts: part of docs/twin.md."""

from __future__ import annotations

from nucleus_lite import configuration, deployment, ipc, recipe, unit
from nucleus_lite.fact import RELEASE, Fact

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
