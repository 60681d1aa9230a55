"""Component recipes: read, checked and put into the form that devices receive; the versions and ranges in them.

Versions are SemVer 2.0.0 with parts up to 999999, as CreateComponentVersion takes them. Ranges have the grammar of npm
(https://github.com/npm/node-semver#ranges), which is what Greengrass documents for `VersionRequirement`.

The canonical form was seen on the wire: keys in Greengrass's own case, `Artifacts` in every manifest (nucleus lite
logs an error without it), the component type filled in. Values of the author (lifecycle, configuration, platform) stay.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from twin.cloud.aws.protocol import InvalidRequestError, Mistake

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


RECIPE_LIMIT_BYTES = 16 * 1024
"""Quota of CreateComponentVersion (AWS general reference, Greengrass V2 quotas)."""

NESTING_LIMIT = 64
"""Levels of a recipe. Devices take far fewer, and the time to read YAML grows with the square of the open brackets."""

FORMAT_VERSION = "2020-01-25"
GENERIC_TYPE = "aws.greengrass.generic"

#: Devices make folders of it: `.` and `..` name others.
_NAME = re.compile(r"(?!\.+$)[a-zA-Z0-9._-]{1,128}")
_ARTIFACT_URI = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.+|greengrass:.+|docker:.+")
_TOP = (
    "RecipeFormatVersion ComponentName ComponentVersion ComponentDescription ComponentPublisher ComponentType "
    "ComponentSource ComponentConfiguration ComponentDependencies Manifests Lifecycle"
)
_MANIFEST = "Name Platform Lifecycle Selections Artifacts"
_ARTIFACT = "Uri Digest Algorithm Unarchive Permission"

Recipe = dict[str, Any]


def read_recipe(source: bytes) -> Recipe:
    """Parse, canonicalise and check a recipe.

    Args:
        source: JSON, or YAML without aliases; at most 16 KiB.

    Returns:
        The canonical recipe; S3 artifacts are without `Digest` and `Algorithm` yet.

    Raises:
        InvalidRequestError: With every mistake that was found.
    """
    recipe = canonical(_parse(source))
    mistakes = _mistakes(recipe)
    if mistakes:
        raise InvalidRequestError(mistakes)
    return recipe


def artifacts(recipe: Recipe) -> list[dict[str, Any]]:
    """Every artifact of every manifest of a canonical recipe, in order; the entries are the recipe's own."""
    return [artifact for manifest in recipe["Manifests"] for artifact in manifest["Artifacts"]]


class _Loader(yaml.SafeLoader):
    """YAML that cannot grow: the reader ends at the first alias and at the first level too many."""

    def fetch_alias(self) -> None:
        # An alias is a few bytes that stand for many: a recipe of 16 KiB could grow without bound.
        raise InvalidRequestError([("inlineRecipe", "must not use YAML aliases: write the values out")])

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        if self.flow_level >= NESTING_LIMIT:
            raise _too_deep()
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > NESTING_LIMIT:
            raise _too_deep()
        return bool(super().add_indent(column))


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError([("inlineRecipe", f"must have at most {NESTING_LIMIT} levels")], "CANNOT_PARSE")


def _parse(source: bytes) -> dict[str, Any]:
    if len(source) > RECIPE_LIMIT_BYTES:
        raise InvalidRequestError([("inlineRecipe", f"must be at most {RECIPE_LIMIT_BYTES} bytes, got {len(source)}")])
    try:
        text = source.decode()
        try:
            document = json.loads(text)
        except ValueError:
            document = yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InvalidRequestError([("inlineRecipe", f"must be JSON or YAML: {error}")], "CANNOT_PARSE") from error
    if not isinstance(document, dict):
        raise InvalidRequestError(
            [("inlineRecipe", f"must be a mapping, got {type(document).__name__}")], "CANNOT_PARSE"
        )
    level: list[Any] = [document]
    for _ in range(NESTING_LIMIT):
        level = [
            item
            for node in level
            for item in (node.values() if isinstance(node, dict) else node)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise _too_deep()
    return document


def canonical(document: dict[str, Any]) -> Recipe:
    """Put a recipe's own keys into Greengrass's case and fill in what devices expect; keeps everything else."""
    recipe: Recipe = _cased(document, _TOP)
    recipe["ComponentVersion"] = str(recipe.get("ComponentVersion", ""))
    recipe["RecipeFormatVersion"] = str(recipe.get("RecipeFormatVersion", ""))
    recipe.setdefault("ComponentType", GENERIC_TYPE)
    if isinstance(recipe.get("ComponentConfiguration"), dict):
        recipe["ComponentConfiguration"] = _cased(recipe["ComponentConfiguration"], "DefaultConfiguration")
    dependencies = recipe.get("ComponentDependencies")
    if isinstance(dependencies, dict):
        recipe["ComponentDependencies"] = {
            str(name): _cased(rule, "VersionRequirement DependencyType") for name, rule in dependencies.items()
        }
    if isinstance(recipe.get("Manifests"), list):
        recipe["Manifests"] = [_canonical_manifest(manifest) for manifest in recipe["Manifests"]]
    return recipe


def _canonical_manifest(manifest: Any) -> Any:
    if not isinstance(manifest, dict):
        return manifest
    manifest = _cased(manifest, _MANIFEST)
    found = manifest.get("Artifacts") or []
    manifest["Artifacts"] = [_cased(artifact, _ARTIFACT) for artifact in found] if isinstance(found, list) else found
    return manifest


def _cased(value: Any, names: str) -> Any:
    """A mapping with the keys that are in `names` but for their case put into that case; anything else as it is."""
    if not isinstance(value, dict):
        return value
    known = {name.lower(): name for name in names.split()}
    return {known.get(str(key).lower(), str(key)): item for key, item in value.items()}


def name_problem(name: Any) -> str:
    """What is wrong with a component's name; empty where nothing is.

    Args:
        name: Of a recipe, of one of its dependencies, or in a deployment.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return ""
    return f"must be 1 to 128 letters, digits, '.', '_' or '-', not dots alone, got {str(name)[:140]!r}"


def _mistakes(recipe: Recipe) -> list[Mistake]:
    found: list[Mistake] = []
    if recipe["RecipeFormatVersion"] != FORMAT_VERSION:
        found.append(("RecipeFormatVersion", f"must be {FORMAT_VERSION!r}, got {recipe['RecipeFormatVersion']!r}"))
    name = recipe.get("ComponentName")
    if problem := name_problem(name):
        found.append(("ComponentName", problem))
    try:
        Version.parse(recipe["ComponentVersion"])
    except ValueError as error:
        found.append(("ComponentVersion", str(error)))
    found += _dependency_mistakes(recipe.get("ComponentDependencies") or {})
    manifests = recipe.get("Manifests")
    if not isinstance(manifests, list) or not manifests:
        return [*found, ("Manifests", "must be a list of at least one manifest")]
    for index, manifest in enumerate(manifests):
        found += _manifest_mistakes(f"Manifests[{index}]", manifest)
    return found


def _dependency_mistakes(dependencies: Any) -> list[Mistake]:
    if not isinstance(dependencies, dict):
        return [("ComponentDependencies", "must be a mapping of component names")]
    found: list[Mistake] = []
    for name, rule in dependencies.items():
        field = f"ComponentDependencies.{name}"
        if problem := name_problem(name):
            found.append((field, problem))
        if not isinstance(rule, dict):
            found.append((field, "must be a mapping with VersionRequirement"))
            continue
        try:
            VersionRange.parse(str(rule.get("VersionRequirement") or ""))
        except ValueError as error:
            found.append((f"{field}.VersionRequirement", str(error)))
        if rule.get("DependencyType", "HARD") not in ("HARD", "SOFT"):
            found.append((f"{field}.DependencyType", f"must be HARD or SOFT, got {rule['DependencyType']!r}"))
    return found


def _manifest_mistakes(field: str, manifest: Any) -> list[Mistake]:
    if not isinstance(manifest, dict):
        return [(field, f"must be a mapping, got {type(manifest).__name__}")]
    found: list[Mistake] = []
    for key in ("Platform", "Lifecycle"):
        if not isinstance(manifest.get(key, {}), dict):
            found.append((f"{field}.{key}", "must be a mapping"))
    if not isinstance(manifest["Artifacts"], list):
        return [*found, (f"{field}.Artifacts", "must be a list")]
    names: dict[str, int] = {}
    for index, artifact in enumerate(manifest["Artifacts"]):
        where = f"{field}.Artifacts[{index}]"
        uri = artifact.get("Uri") if isinstance(artifact, dict) else None
        if not isinstance(uri, str) or not _ARTIFACT_URI.fullmatch(uri):
            found.append((f"{where}.Uri", f"must be s3://<bucket>/<key>, greengrass:… or docker:…, got {uri!r}"))
        elif (name := re.split(r"[/:]", uri)[-1]) in ("", ".", ".."):
            found.append((f"{where}.Uri", f"must end with the file's name, which devices keep it by, got {uri!r}"))
        elif (other := names.setdefault(name, index)) != index:
            text = f"must have a file name of its own, for devices keep both as {name}, got that of Artifacts[{other}]"
            found.append((f"{where}.Uri", text))
        elif artifact.get("Unarchive", "NONE") not in ("NONE", "ZIP"):
            found.append((f"{where}.Unarchive", f"must be NONE or ZIP, got {artifact['Unarchive']!r}"))
    return found
