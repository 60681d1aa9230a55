"""From the components that targets name to all that must be on the device, dependencies included."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from twin.core_device.cloud.https import DataPlane
from twin.core_device.components.environment import TOKEN_EXCHANGE_SERVICE
from twin.core_device.components.recipe import Recipe, device_platform, parse_recipe, satisfies
from twin.core_device.dialect import LITE, Dialect, check_components, check_letters, check_requirement
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout

# The device does these components' work itself; they are never fetched.
BUILT_IN = frozenset(
    {
        "aws.greengrass.Nucleus",
        "aws.greengrass.NucleusLite",
        TOKEN_EXCHANGE_SERVICE,
        "aws.greengrass.Cli",
    }
)
_ROUNDS_LIMIT = 200  # a version chosen anew brings other dependencies; this many is a quarrel, not a resolution


class Resolver:
    """Finds versions and recipes.

    Args:
        layout: Where recipes are kept; one that is there is never fetched again.
        data_plane: Where others come from.
        dialect: Which recipes work.
        architecture: Which manifests fit; this machine's by default.
    """

    def __init__(self, layout: Layout, data_plane: DataPlane, dialect: Dialect = LITE, architecture: str = "") -> None:
        self._layout, self._data_plane, self._dialect = layout, data_plane, dialect
        self._platform = device_platform(dialect, architecture)

    async def resolve(self, wanted: Mapping[str, Mapping[str, str]], present: Mapping[str, str]) -> dict[str, Recipe]:
        """Choose one version of each component that is needed.

        Args:
            wanted: Version range by who wants it (a target), by component.
            present: Versions on the device; one that meets a dependency's range is kept.

        Returns:
            Recipes by name, each after those it depends on.

        Raises:
            DeploymentError: No version meets all that is required, or components depend on each other in a circle,
                or there are more than the dialect has room for.
        """
        requirements = {name: dict(ranges) for name, ranges in wanted.items() if name not in BUILT_IN}
        chosen: dict[str, Recipe] = {}
        asked: dict[str, dict[str, str]] = {}
        open_names = list(requirements)
        for _ in range(_ROUNDS_LIMIT):
            if not open_names:
                recipes = _in_order(_reachable(chosen, wanted))
                if self._dialect is LITE:
                    check_components(_all_names(recipes, wanted), present.keys() - recipes.keys())
                if self._dialect.ignores_case:
                    check_letters(recipes)
                return recipes
            name = open_names.pop()
            ranges = requirements[name]
            recipe = chosen.get(name)
            if recipe and (asked[name] == ranges or all(satisfies(recipe.version, text) for text in ranges.values())):
                continue
            asked[name] = dict(ranges)
            chosen[name] = recipe = await self._choose(name, ranges, present.get(name))
            for dependency in recipe.dependencies:
                if dependency.name not in BUILT_IN:
                    if self._dialect is LITE and (dependency.name in chosen or dependency.name in wanted):
                        check_requirement(name, dependency.name, dependency.requirement)
                    requirements.setdefault(dependency.name, {})[name] = dependency.requirement
                    open_names.append(dependency.name)
        raise DeploymentError(f"the dependencies of {sorted(wanted)} cannot be resolved in {_ROUNDS_LIMIT} steps")

    def recipe(self, name: str, version: str) -> Recipe | None:
        """The recipe of a version in the device's store, or None."""
        document = self._layout.documents.read(self._layout.recipe(name, version))
        return parse_recipe(document, self._platform, self._dialect) if document else None

    def arn(self, name: str, version: str) -> str:
        """The ARN of a version in the device's store."""
        return str((self._layout.documents.read(self._layout.recipe(name, version)) or {}).get("arn", ""))

    async def _choose(self, name: str, ranges: Mapping[str, str], present: str | None) -> Recipe:
        # An exact version can only be that one: the store may answer. For a range, what runs already is kept.
        for candidate in (*ranges.values(), present or ""):
            if all(satisfies(candidate, text) for text in ranges.values()):
                stored = self.recipe(name, candidate)
                if stored:
                    return stored
        document = await self._data_plane.resolve(name, ranges, self._platform)
        recipe = parse_recipe(document, self._platform, self._dialect)
        if recipe.name != name:
            raise DeploymentError(f"asked for component {name}, the cloud answered with {recipe.name}")
        self._layout.documents.write(self._layout.recipe(name, recipe.version), document)
        return recipe


def _reachable(chosen: Mapping[str, Recipe], wanted: Mapping[str, object]) -> dict[str, Recipe]:
    """Without the dependencies of versions that were given up again."""
    found: dict[str, Recipe] = {}
    names = [name for name in wanted if name in chosen]
    while names:
        name = names.pop()
        if name not in found:
            found[name] = chosen[name]
            names += [d.name for d in chosen[name].dependencies if d.name in chosen]
    return found


def _all_names(recipes: Mapping[str, Recipe], wanted: Mapping[str, object]) -> set[str]:
    """With TokenExchangeService, which counts as a component although the device does its work itself."""
    needed = {dependency.name for recipe in recipes.values() for dependency in recipe.dependencies}
    return {*recipes, *({*needed, *wanted} & {TOKEN_EXCHANGE_SERVICE})}


def _in_order(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    graph = {name: {d.name for d in recipe.dependencies if d.name in recipes} for name, recipe in recipes.items()}
    try:
        return {name: recipes[name] for name in TopologicalSorter(graph).static_order()}
    except CycleError as exc:
        raise DeploymentError(f"components depend on each other in a circle: {' -> '.join(exc.args[1])}") from exc
