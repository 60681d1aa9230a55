"""A version is a function of the content."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_constructs.recipe import content_version


@given(st.lists(st.text(), min_size=1))
def test_is_a_version_that_recipes_accept(parts: list[str]) -> None:
    version = content_version(*parts)

    assert re.fullmatch(r"1\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})", version)
    assert version == content_version(*parts)


def test_stays_the_same_from_release_to_release() -> None:
    assert content_version("recipe", b"digest") == "1.511463.431768"


@pytest.mark.parametrize("other", [("ab", "c"), ("abc",), ("c", "ab"), ("a", "bc", "")])
def test_tells_other_parts_apart(other: tuple[str, ...]) -> None:
    assert content_version(*other) != content_version("a", "bc")


def test_refuses_no_content() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        content_version()
