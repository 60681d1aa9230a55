"""What the documents say of settings is what the components read."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from edge_component.settings import FLAG, setting, whole
from tools.settings_tables import DOCS, TABLES, table, written


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Settings of all sorts."""

    name: str
    wanted: int = setting("wantedKey", whole(1, 5), "what must be there")
    size: int = setting("size", whole(1, 1 << 30), "a size", 3 << 20)
    on: bool = setting("on", FLAG, "a switch", False)
    words: Mapping[str, str] = setting("words", FLAG, "an object", factory=dict)


@pytest.mark.parametrize(("name", "title", "settings"), TABLES, ids=lambda value: getattr(value, "__name__", None))
def test_a_document_holds_the_table_of_its_settings(name: str, title: str, settings: type) -> None:
    content = (DOCS / name).read_text(encoding="utf-8")

    assert written(content, title, settings) == content, "run python -m tools.settings_tables --write"


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
