"""A deployment carried out: resolved, fetched, switched to, watched, and undone when it fails."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace

from twin.clock import CLOCK
from twin.core_device.cloud.https import DataPlane
from twin.core_device.components.configuration_store import DEFAULT_TIMESTAMP_MS, ConfigurationStore
from twin.core_device.components.recipe import Recipe, is_pre_release
from twin.core_device.components.supervisor import ComponentSupervisor
from twin.core_device.dialect import LITE, Dialect, check_status
from twin.core_device.errors import DeploymentError
from twin.core_device.files import Layout

from .artifacts import Artifacts, remove_unused
from .document import DeployedSet, DeploymentDocument, Target, load_deployed_set
from .resolution import BUILT_IN, Resolver

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
        except (DeploymentError, OSError) as exc:
            kind = exc.kind if isinstance(exc, DeploymentError) else "IO_ERROR"
            if not (document.rollback and self._dialect.rolls_back):
                self._commit(replace(plan.deployed, not_installed=self._not_installed(plan.recipes)))
                return Outcome("FAILED_ROLLBACK_NOT_REQUESTED", str(exc), kind)
            self._store.restore(configurations)
            return Outcome(await self._roll_back(before), str(exc), kind)
        self._commit(plan.deployed)
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
        self.deployed = deployed
        deployed.save(self._layout.deployed_file, self._layout.documents)
        spelt = {name.lower() for name in deployed.components} if self._dialect.ignores_case else set()
        for name in removed:
            # A name that was only spelt anew has the configuration of the former one.
            if name.lower() not in spelt:
                self._store.remove(name)
            if not self._dialect.keeps_work_folders:
                shutil.rmtree(self._layout.work(name), ignore_errors=True)
        self._store.save()
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
