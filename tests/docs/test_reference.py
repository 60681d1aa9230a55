"""What can be looked up in the documents is what the code has."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.section import Section
from config.stage import Stage
from edge_component.settings import FLAG, setting, whole
from tools.cloud_assembly import ROOT
from tools.reference import DOCS, attributes, current, section_of, table, written


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Settings of all sorts.

    Attributes:
        wanted: what must be there
        size: a size
        on: a switch
        words: an object
    """

    name: str
    wanted: int = setting("wantedKey", whole(1, 5))
    size: int = setting("size", whole(1, 1 << 30), 3 << 20)
    on: bool = setting("on", FLAG, False)
    words: Mapping[str, str] = setting("words", FLAG, factory=dict)


@pytest.mark.parametrize(("name", "content"), current().items(), ids=lambda value: value[:30])
def test_a_document_says_what_the_code_has(name: str, content: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == content, "run python -m tools.reference --write"


@pytest.mark.parametrize("section", [Stage, *Section.__subclasses__()], ids=lambda section: section.__name__)
def test_every_key_of_a_stage_has_a_description(section: type[Section]) -> None:
    told = attributes(section)

    for name, field in section.model_fields.items():
        assert told.get(name) or section_of(field.annotation), f"{name} of {section.__name__} must be described"


@pytest.mark.parametrize("file", sorted((ROOT / "tools").glob("*.py")), ids=lambda file: file.stem)
def test_a_command_reads_its_arguments_before_it_does_anything(file: Path) -> None:
    text = file.read_text(encoding="utf-8")

    # Without a parser `--help` would deploy, train or measure.
    assert '"__main__"' not in text or "ArgumentParser(" in text or "typer.run(" in text


def test_a_command_is_listed_with_its_options() -> None:
    commands = current()["reference/commands.md"]

    assert "### python -m twin predict" in commands
    assert "| `--message-bytes` | Longest message" in commands
    assert "| `--base` |" in commands.split("### python -m tools.plan\n")[1].split("###")[0]


def test_a_table_has_a_row_for_each_setting_with_values_default_and_meaning() -> None:
    assert table("key", Sample).splitlines() == [
        "| key | values | default | what |",
        "|---|---|---|---|",
        "| `wantedKey` | a whole number from 1 to 5 | required | what must be there |",
        "| `size` | a whole number from 1 to 1073741824 | 3 MiB | a size |",
        "| `on` | true or false | false | a switch |",
        "| `words` | true or false | none | an object |",
    ]


def test_a_table_takes_the_place_of_the_one_before_it() -> None:
    before = "# Title\n\n| key | old |\n|---|---|\n| `gone` | x |\n\nText.\n"

    after = written(before, "key", Sample)

    assert after == f"# Title\n\n{table('key', Sample)}\n\nText.\n"
    with pytest.raises(ValueError, match=r"must have a table that begins with '\| other \|'"):
        written(before, "other", Sample)
