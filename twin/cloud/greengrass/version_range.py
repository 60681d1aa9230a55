"""Semantic versions and the ranges that recipes and devices ask for.

Versions are SemVer 2.0.0 with parts up to 999999, as CreateComponentVersion takes them. Ranges have the grammar of npm
(https://github.com/npm/node-semver#ranges), which is what Greengrass documents for `VersionRequirement`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

_VERSION = re.compile(
    r"(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})\.(0|[1-9]\d{0,5})"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_TERM = re.compile(
    r"(>=|<=|>|<|=|\^|~>|~)?v?"
    r"([xX*]|\d{1,6})(?:\.([xX*]|\d{1,6}))?(?:\.([xX*]|\d{1,6})(?:-([0-9A-Za-z.-]+))?)?(?:\+[0-9A-Za-z.-]+)?"
)
_LENGTH_LIMIT = 512

Identifier = tuple[int, int, str]


@dataclass(frozen=True)
class Version:
    """One version; compares by SemVer precedence (build metadata has none).

    Args:
        numbers: Major, minor, patch.
        prerelease: The dot-separated identifiers after `-`; empty for a release.
    """

    numbers: tuple[int, int, int]
    prerelease: tuple[Identifier, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Version:
        """Read `1.2.3`, `1.2.3-rc.1` or `1.2.3+build`.

        Raises:
            ValueError: If the text is no semantic version, or a part is above 999999.
        """
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError(f"version must be <major>.<minor>.<patch> with parts from 0 to 999999, got {text!r}")
        return cls((int(match[1]), int(match[2]), int(match[3])), _identifiers(match[4]))

    @property
    def precedence(self) -> tuple[tuple[int, int, int], bool, tuple[Identifier, ...]]:
        """The key that sorts versions: a release comes after its pre-releases."""
        return self.numbers, not self.prerelease, self.prerelease


def _identifiers(text: str | None) -> tuple[Identifier, ...]:
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split(".")) if text else ()


_FIRST_PRERELEASE: tuple[Identifier, ...] = ((0, 0, ""),)


@dataclass(frozen=True)
class _Comparator:
    operator: str  # one of = > >= < <=
    version: Version

    def allows(self, version: Version) -> bool:
        left, right = version.precedence, self.version.precedence
        return {
            "=": left == right,
            ">": left > right,
            ">=": left >= right,
            "<": left < right,
            "<=": left <= right,
        }[self.operator]


@dataclass(frozen=True)
class VersionRange:
    """A requirement such as `>=1.0.0 <2.0.0`, `^1.2`, `1.x || 2.0.0`."""

    alternatives: tuple[tuple[_Comparator, ...], ...]

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Read a range; an empty text allows every release.

        Raises:
            ValueError: If a part is no comparator of the grammar, or the text is longer than 512 characters.
        """
        if len(text) > _LENGTH_LIMIT:
            raise ValueError(f"version requirement must be at most {_LENGTH_LIMIT} characters, got {len(text)}")
        return cls(tuple(_alternative(part, text) for part in text.split("||")))

    def allows(self, version: Version) -> bool:
        """Whether the version is in the range; a pre-release only where a comparator names one of the same numbers."""
        for comparators in self.alternatives:
            named = any(c.version.prerelease and c.version.numbers == version.numbers for c in comparators)
            if (named or not version.prerelease) and all(c.allows(version) for c in comparators):
                return True
        return False


@cache
def satisfies(version: str, requirement: str) -> bool:
    """Whether a version is in a range.

    Raises:
        ValueError: If one of the two does not parse.
    """
    return VersionRange.parse(requirement).allows(Version.parse(version))


def _alternative(text: str, whole: str) -> tuple[_Comparator, ...]:
    text = re.sub(r"(\S+)\s+-\s+(\S+)", r">=\1 <=\2", text.strip())
    text = re.sub(r"(>=|<=|>|<|=|\^|~>|~)\s+", r"\1", text)
    comparators: list[_Comparator] = []
    for term in re.split(r"[\s,]+", text) if text else ():
        match = _TERM.fullmatch(term)
        if match is None:
            raise ValueError(
                f"version requirement must be a range such as '>=1.0.0 <2.0.0', '^1.2.0' or '1.x', got {whole!r}"
            )
        comparators.extend(_comparators(match[1] or "=", (match[2], match[3], match[4]), match[5]))
    return tuple(comparators)


def _comparators(operator: str, parts: tuple[str | None, ...], prerelease: str | None) -> list[_Comparator]:
    given: list[int] = []
    for part in parts:
        if part is None or part in "xX*":
            break
        given.append(int(part))
    low = Version(_numbers(given), _identifiers(prerelease) if len(given) == 3 else ())
    if not given:
        # Any version, or none at all for the two that ask for something beyond every version.
        return [_Comparator("<", Version((0, 0, 0), _FIRST_PRERELEASE))] if operator in "<>" else []
    match operator:
        case "^":
            significant = next((i for i, number in enumerate(given) if number), len(given) - 1)
            return [_Comparator(">=", low), _below_next(given, significant)]
        case "~" | "~>":
            return [_Comparator(">=", low), _below_next(given, min(1, len(given) - 1))]
        case ">=" | "<":
            return [_Comparator(operator, low)]
    if len(given) == 3:
        return [_Comparator(operator, low)]
    past = _below_next(given, len(given) - 1)
    match operator:
        case ">":
            return [_Comparator(">=", Version(past.version.numbers))]
        case "<=":
            return [past]
    return [_Comparator(">=", low), past]


def _numbers(given: list[int]) -> tuple[int, int, int]:
    major, minor, patch = (*given, 0, 0, 0)[:3]
    return major, minor, patch


def _below_next(given: list[int], position: int) -> _Comparator:
    """Below the version that follows when the part at `position` grows by one, and below its pre-releases."""
    return _Comparator("<", Version(_numbers([*given[:position], given[position] + 1]), _FIRST_PRERELEASE))
