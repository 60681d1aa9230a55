"""Versions and ranges, by properties and by npm's own examples."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.cloud.greengrass.recipe import Version, VersionRange, satisfies

numbers = st.tuples(*[st.integers(0, 999_999)] * 3)


def text(of: tuple[int, int, int]) -> str:
    return ".".join(map(str, of))


@given(numbers, numbers)
def test_an_exact_requirement_allows_that_version_only(left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    assert satisfies(text(left), text(right)) == (left == right)


@given(numbers, numbers)
def test_versions_compare_by_their_numbers(left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    assert satisfies(text(left), f"<{text(right)}") == (left < right)
    assert satisfies(text(left), f">= {text(right)}") == (left >= right)
    assert satisfies(text(left), f"<={text(right)} || >{text(right)}")


@given(numbers, numbers)
def test_a_caret_is_its_interval(version: tuple[int, int, int], base: tuple[int, int, int]) -> None:
    major, minor, patch = base
    upper = (major + 1, 0, 0) if major else (0, minor + 1, 0) if minor else (0, 0, patch + 1)
    assert satisfies(text(version), f"^{text(base)}") == (base <= version < upper)


@given(numbers, numbers)
def test_a_tilde_is_its_interval(version: tuple[int, int, int], base: tuple[int, int, int]) -> None:
    assert satisfies(text(version), f"~{text(base)}") == (base <= version < (base[0], base[1] + 1, 0))


@given(st.text(max_size=40))
def test_any_text_is_a_range_or_a_value_error(anything: str) -> None:
    with contextlib.suppress(ValueError):
        assert VersionRange.parse(anything).allows(Version.parse("1.2.3")) in (True, False)


@pytest.mark.parametrize(
    ("version", "requirement", "allowed"),
    [
        ("1.2.3", ">=1.0.0 <2.0.0", True),
        ("2.0.0", ">=1.0.0 <2.0.0", False),
        ("1.2.3", ">=1.0.0,<2.0.0", True),
        ("1.2.3", "", True),
        ("1.2.3", "*", True),
        ("1.2.3", "1.x", True),
        ("1.2.3", "1.2.*", True),
        ("1.3.0", "1.2", False),
        ("1.2.3", "1.0.0 - 1.2", True),
        ("1.3.0", "1.0.0 - 1.2", False),
        ("1.2.3", ">1.2", False),
        ("1.3.0", ">1.2", True),
        ("0.2.9", "^0.2.3", True),
        ("0.3.0", "^0.2.3", False),
        ("1.9.9", "^1", True),
        ("0.0.9", "^0.0", True),
        ("1.9.0", "~1", True),
        ("3.0.0", "1.x || >=3.0.0", True),
        ("1.0.0-rc.1", ">=0.9.0", False),
        ("1.0.0-rc.2", ">=1.0.0-rc.1", True),
        ("1.0.0-rc.10", ">1.0.0-rc.9", True),
        ("2.0.0-rc.1", "^1.0.0", False),
        ("1.0.0", "<*", False),
        ("v1.0.0"[1:], "v1.0.0", True),
    ],
)
def test_ranges_of_npm(version: str, requirement: str, allowed: bool) -> None:
    assert satisfies(version, requirement) is allowed


@pytest.mark.parametrize("wrong", ["1", "1.2", "01.0.0", "1.0.0.0", "1000000.0.0", "a.b.c", "", "1.0.0-"])
def test_rejects_what_is_no_version(wrong: str) -> None:
    with pytest.raises(ValueError, match="version must be"):
        Version.parse(wrong)


def test_rejects_a_range_without_end() -> None:
    with pytest.raises(ValueError, match="at most 512"):
        VersionRange.parse("1.x || " * 100)
