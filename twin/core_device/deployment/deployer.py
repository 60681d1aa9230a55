"""A deployment carried out: resolved, fetched, switched to, watched, and undone when it fails."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter

from twin.clock import CLOCK
from twin.core_device.cloud.https import DataPlane
from twin.core_device.components.component import ComponentSupervisor
from twin.core_device.components.configuration_store import DEFAULT_TIMESTAMP_MS, ConfigurationStore
from twin.core_device.components.process import TOKEN_EXCHANGE_SERVICE
from twin.core_device.components.recipe import Recipe, device_platform, is_pre_release, parse_recipe, satisfies
from twin.core_device.dialect import LITE, Dialect, check_components, check_letters, check_requirement, check_status
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout

from .artifacts import Artifacts, remove_unused
from .document import DeployedSet, DeploymentDocument, Target, load_deployed_set

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


log = logging.getLogger(__name__)

PREPARE_LIMIT_S = 3600.0
SETTLE_LIMIT_S = 300.0

Turn = Callable[[], AbstractAsyncContextManager[object]]


@dataclass(frozen=True)
class Outcome:
    """How a deployment ended.

    Args:
        detail: The nucleus' word for it, such as `FAILED_ROLLBACK_COMPLETE`.
        cause: Why it failed; empty on success.
        kind: The error's type; empty on success.
    """

    detail: str
    cause: str = ""
    kind: str = ""

    @property
    def status(self) -> str:
        """The job's final status."""
        return "FAILED" if self.cause else "SUCCEEDED"


@dataclass(frozen=True)
class _Plan:
    document: DeploymentDocument
    recipes: Mapping[str, Recipe]
    deployed: DeployedSet


class Deployer:
    """Carries out one deployment at a time.

    Attributes:
        deployed: What the device runs.
        busy: A deployment is under way.
        changing: It changes the device; until it ends, the file of configurations keeps the state before it.

    Args:
        layout: The device's folders.
        thing_name: The device.
        resolver: Finds versions and recipes.
        artifacts: Fetches artifacts.
        store: The components' configurations.
        supervisor: The components.
        data_plane: Knows the device's thing groups.
        dialect: Whether a component that is configured starts anew, and what a failure leaves behind.
        turn: Entered while the device asks the cloud and fetches; many devices of a process take turns.
    """

    def __init__(
        self,
        layout: Layout,
        thing_name: str,
        resolver: Resolver,
        artifacts: Artifacts,
        store: ConfigurationStore,
        supervisor: ComponentSupervisor,
        data_plane: DataPlane,
        dialect: Dialect,
        turn: Turn = nullcontext,
    ) -> None:
        self.deployed = load_deployed_set(layout.deployed_file, layout.documents)
        self.busy = self.changing = False
        self._layout, self._thing_name = layout, thing_name
        self._resolver, self._artifacts, self._data_plane = resolver, artifacts, data_plane
        self._store, self._supervisor = store, supervisor
        self._dialect, self._turn = dialect, turn

    async def start_deployed(self) -> None:
        """Start what the device ran before it was stopped; the cloud is not needed."""
        for name, recipe in self._stored_recipes(self.deployed).items():
            if name in self.deployed.not_installed:
                self._supervisor.leave_out(recipe)  # nucleus lite installs nothing at its start either
                continue
            try:  # one that cannot be started keeps no other from it, as with units of systemd
                await self._supervisor.start({name: recipe}, self.deployed.installed())
            except DeploymentError as exc:
                log.error("not everything that was deployed could be started: %s", exc)

    async def run(self, document: DeploymentDocument) -> Outcome:
        """Carry out a deployment; one that was interrupted is simply carried out again."""
        self.busy = True
        began = CLOCK.monotonic()
        try:
            outcome = await self._run(document)
        finally:
            self.busy = self.changing = False
        log.info("deployment %s: %s after %.1f s", document.deployment_id, outcome.detail, CLOCK.monotonic() - began)
        if outcome.cause:
            log.error("deployment %s: %s", document.deployment_id, outcome.cause)
        return outcome

    async def _run(self, document: DeploymentDocument) -> Outcome:
        try:
            async with self._turn(), CLOCK.timeout(PREPARE_LIMIT_S):
                plan = await self._prepare(document)
        except DeploymentError as exc:
            return Outcome("FAILED_NO_STATE_CHANGE", str(exc), exc.kind)
        except (OSError, TimeoutError) as exc:
            return Outcome("FAILED_NO_STATE_CHANGE", f"preparing the deployment: {exc!r}", "IO_ERROR")
        before, configurations = self.deployed, self._store.snapshot()
        self.changing = True
        try:
            await self._switch(plan)
            self._commit(plan.deployed)
        except (DeploymentError, OSError) as exc:
            kind = exc.kind if isinstance(exc, DeploymentError) else "IO_ERROR"
            if not (document.rollback and self._dialect.rolls_back):
                try:
                    self._commit(replace(plan.deployed, not_installed=self._not_installed(plan.recipes)))
                except OSError as full:
                    log.error("what the failed deployment has left is not saved: %s", full)
                return Outcome("FAILED_ROLLBACK_NOT_REQUESTED", str(exc), kind)
            self._store.restore(configurations)
            return Outcome(await self._roll_back(before), str(exc), kind)
        return Outcome("SUCCESSFUL")

    async def _prepare(self, document: DeploymentDocument) -> _Plan:
        """Everything that changes nothing on the running device."""
        groups = await self._data_plane.thing_groups()
        kept = {f"thinggroup/{group}" for group in groups} | {f"thing/{self._thing_name}"}
        if self._dialect.groups_only and document.target.startswith("thinggroup/"):
            kept.discard(f"thing/{self._thing_name}")
        targets = {name: target for name, target in self.deployed.targets.items() if name in kept}
        roots = {name: request.version for name, request in document.components.items()}
        targets[document.target] = Target(document.configuration_arn, document.deployment_id, roots)
        wanted: dict[str, dict[str, str]] = {}
        for name, target in targets.items():
            for component, version in target.roots.items():
                wanted.setdefault(component, {})[name] = version
        recipes = await self._resolver.resolve(wanted, self.deployed.components)
        if self._dialect.keeps_pre_releases:
            stale = {n: v for n, v in self.deployed.components.items() if n not in recipes and is_pre_release(v)}
            recipes |= self._stored_recipes(DeployedSet(stale))
        for recipe in recipes.values():
            if self.deployed.components.get(recipe.name) != recipe.version:
                await self._artifacts.prepare(recipe, self._resolver.arn(recipe.name, recipe.version))
        deployed = DeployedSet({name: recipe.version for name, recipe in recipes.items()}, targets)
        if self._dialect is LITE:
            # There what others depend on has the revision of its deployment, too.
            own = [document.configuration_arn]
            status = {n: (v, deployed.configuration_arns(n) or own) for n, v in deployed.components.items()}
            check_status(self._thing_name, status)
        return _Plan(document, recipes, deployed)

    async def _switch(self, plan: _Plan) -> None:
        requests = plan.document.components.items()
        starting = (
            {name for name, request in requests if request.configures} if self._dialect.starts_configured else set()
        )
        if self._dialect.starts_configured:
            self._configure(plan, tells_reset=False)
        await self._supervisor.stop_changed(plan.recipes, starting)
        if not self._dialect.starts_configured:
            self._configure(plan, tells_reset=True)
        await self._supervisor.start(plan.recipes, self._unchanged(plan.recipes))
        await self._supervisor.wait_settled(SETTLE_LIMIT_S)

    def _configure(self, plan: _Plan, *, tells_reset: bool) -> None:
        document = plan.document
        for name, recipe in plan.recipes.items():
            self._store.merge(name, (), dict(recipe.default_configuration), DEFAULT_TIMESTAMP_MS)
        for name, request in document.components.items():
            if name not in plan.recipes and name not in BUILT_IN:
                continue
            defaults = dict(plan.recipes[name].default_configuration) if name in plan.recipes else {}
            for path in request.reset:
                self._store.reset(name, path, defaults, tells=tells_reset)
            self._store.merge(name, (), dict(request.merge), document.created_ms)

    async def _roll_back(self, before: DeployedSet) -> str:
        try:
            recipes = self._stored_recipes(before)
            await self._supervisor.stop_changed(recipes)
            await self._supervisor.start(recipes, before.installed())
            await self._supervisor.wait_settled(SETTLE_LIMIT_S)
        except (DeploymentError, OSError) as exc:
            log.error("the previous state could not be put back: %s", exc)
            return "FAILED_UNABLE_TO_ROLLBACK"
        finally:
            self._save_what_components_set()
            remove_unused(self._layout, before.components)
        return "FAILED_ROLLBACK_COMPLETE"

    def _save_what_components_set(self) -> None:
        try:
            self._store.save()
        except OSError as exc:
            log.error("what components have set while the deployment was undone is not saved: %s", exc)

    def _commit(self, deployed: DeployedSet) -> None:
        removed = set(self.deployed.components) - set(deployed.components)
        spelt = {name.lower() for name in deployed.components} if self._dialect.ignores_case else set()
        for name in removed:
            # A name that was only spelt anew has the configuration of the former one.
            if name.lower() not in spelt:
                self._store.remove(name)
        # Before anything else: on a full disk the former state can still be put back.
        self._store.save()
        deployed.save(self._layout.deployed_file, self._layout.documents)
        self.deployed = deployed
        for name in () if self._dialect.keeps_work_folders else removed:
            shutil.rmtree(self._layout.work(name), ignore_errors=True)
        remove_unused(self._layout, deployed.components)

    def _unchanged(self, recipes: Mapping[str, Recipe]) -> set[str]:
        installed = self.deployed.installed()
        return {
            name for name in installed if name in recipes and recipes[name].version == self.deployed.components[name]
        }

    def _not_installed(self, recipes: Mapping[str, Recipe]) -> list[str]:
        """Those of a failed deployment whose install step has failed, or never had its turn."""
        components = self._supervisor.components
        new = recipes.keys() - self._unchanged(recipes)
        return sorted(name for name in new if name not in components or not components[name].installed)

    def _stored_recipes(self, deployed: DeployedSet) -> dict[str, Recipe]:
        recipes = {}
        for name, version in deployed.components.items():  # kept in the order of dependencies
            try:
                recipe = self._resolver.recipe(name, version)
            except DeploymentError as exc:
                log.error("component %s %s: %s", name, version, exc)
                continue
            if recipe is None:
                log.error("component %s %s is not started: its recipe is missing", name, version)
            else:
                recipes[name] = recipe
        return recipes
