"""Links between the pages of the repository lead somewhere."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.docs.documented_commands import PAGES, ROOT

FILES = sorted(file for pattern in (*PAGES, "CHANGELOG.md") for file in ROOT.glob(pattern))


def links_of(file: Path) -> list[str]:
    """The targets of a page's links, but for those to the web."""
    blocks = MarkdownIt().enable("table").parse(file.read_text(encoding="utf-8"))
    found = [str(part.attrs["href"]) for block in blocks for part in block.children or () if part.type == "link_open"]
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(file: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(file: Path) -> None:
    for link in links_of(file):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file

        assert target.exists(), f"{link} leads to nothing"
        assert not anchor or anchor in anchors_of(target), f"{link}: there is no such heading"


def test_pages_have_links() -> None:
    assert sum(len(links_of(file)) for file in FILES) > len(FILES)


def test_the_site_lists_each_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"(\S+\.md)$", nav, re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/*.md")}

    assert len(listed) == len(set(listed))
    assert pages <= set(listed)


def test_the_readme_begins_with_its_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = lines[lines.index("```sh") + 1 :]

    assert lines.index("```sh") < 8
    assert [line.split("  ")[0] for line in commands[:2]] == ["make demo", "make test"]
    assert len(lines) < 150
