"""The components on the device, changed from one set to another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from twin.clock import CLOCK
from twin.core_device.errors import DeploymentError

from .component import ATTEMPTS, Component, State
from .recipe import Recipe

log = logging.getLogger(__name__)

_POLL_S = 0.1
_DEPENDENCY_LIMIT_S = 60.0


class ComponentSupervisor:
    """Starts and stops components in the order of their dependencies.

    Args:
        make: Makes a component that is not started yet.
        on_stopped: Called with the name of each component that has been stopped.
        binds_to: Whether a component is stopped when a HARD dependency of it ends.
    """

    def __init__(
        self, make: Callable[[Recipe], Component], on_stopped: Callable[[str], None], *, binds_to: bool = True
    ) -> None:
        self._make, self._on_stopped, self._binds_to = make, on_stopped, binds_to
        self._components: dict[str, Component] = {}

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name, in the order in which they were started."""
        return self._components

    async def stop_changed(self, recipes: Mapping[str, Recipe], starting: Collection[str] = ()) -> None:
        """Stop what is not in the new set, or not in this version.

        A component that is BROKEN or has not come up is stopped too, and so is one with a HARD dependency among them;
        all others go on undisturbed.

        Args:
            recipes: The new set, by name.
            starting: Names of components that are to start anew, whatever their version; none by default.
        """
        for name in self._to_stop(recipes, starting):
            await self._stop(name)

    async def start(self, recipes: Mapping[str, Recipe], installed: Collection[str]) -> None:
        """Start what is not running of a set.

        Args:
            recipes: The set by name, each after its dependencies.
            installed: Names whose install step need not run.

        Raises:
            DeploymentError: An install step fails, or a HARD dependency does not come up.
        """
        for name, recipe in recipes.items():
            if name in self._components:
                continue
            component = self._components[name] = self._make(recipe)
            await self._wait_for_dependencies(recipe)
            if name not in installed:
                await component.install()
            component.start()
            self.component_changed(name)
            for dependency in recipe.dependencies:
                self.component_changed(dependency.name)

    def leave_out(self, recipe: Recipe) -> None:
        """Have a component that is not installed; it is BROKEN, and the next deployment starts it anew."""
        component = self._components[recipe.name] = self._make(recipe)
        component.leave_out("its install step failed, or never had its turn: the next deployment runs it")

    def component_changed(self, name: str) -> None:
        """Note a component's new state: one that has ended takes those with it that are bound to it."""
        component = self._components.get(name)
        if not self._binds_to or component is None or component.state is not State.FINISHED:
            return
        for dependent in self._components.values():
            if any(d.hard and d.name == name for d in dependent.recipe.dependencies):
                dependent.stop_bound(name)

    async def wait_settled(self, limit_s: float) -> None:
        """Wait until every component runs steadily or has finished.

        Raises:
            DeploymentError: A component is BROKEN, or not settled in time.
        """
        deadline = CLOCK.monotonic() + limit_s
        while True:
            for component in self._components.values():
                if component.state is State.BROKEN:
                    raise DeploymentError(component.failure, "COMPONENT_BROKEN")
            waiting = [name for name, component in self._components.items() if not component.settled]
            if not waiting:
                return
            if CLOCK.monotonic() > deadline:
                states = ", ".join(f"{name} is {self._components[name].state}" for name in waiting)
                raise DeploymentError(f"not well after {limit_s:g} s: {states}", "COMPONENT_NOT_HEALTHY")
            await asyncio.sleep(_POLL_S)

    async def stop_all(self) -> None:
        """Stop every component, dependents first."""
        for name in reversed(list(self._components)):
            await self._stop(name)

    def _to_stop(self, recipes: Mapping[str, Recipe], starting: Collection[str]) -> list[str]:
        stopping = {
            name
            for name, component in self._components.items()
            if name not in recipes
            or name in starting
            or recipes[name].version != component.recipe.version
            or component.state in (State.BROKEN, State.NEW, State.INSTALLED)
        }
        for name, component in self._components.items():  # dependencies come first in this order
            if any(d.hard and d.name in stopping for d in component.recipe.dependencies):
                stopping.add(name)
        return [name for name in reversed(list(self._components)) if name in stopping]

    async def _stop(self, name: str) -> None:
        await self._components[name].stop()
        del self._components[name]
        self._on_stopped(name)

    async def _wait_for_dependencies(self, recipe: Recipe) -> None:
        hard = [d.name for d in recipe.dependencies if d.hard and d.name in self._components]
        steps = [self._components[name].recipe.steps.get("startup") for name in hard]
        limit_s = _DEPENDENCY_LIMIT_S + ATTEMPTS * max((step.timeout_s for step in steps if step), default=0.0)
        deadline = CLOCK.monotonic() + limit_s
        while late := [n for n in hard if self._components[n].state not in (State.RUNNING, State.FINISHED)]:
            for name in late:
                if self._components[name].state is State.BROKEN:
                    raise DeploymentError(self._components[name].failure, "COMPONENT_BROKEN")
                if self._components[name].state is State.NEW:  # its turn was before
                    text = f"component {recipe.name}: its dependency {name} was not started"
                    raise DeploymentError(text, "COMPONENT_NOT_HEALTHY")
            if CLOCK.monotonic() > deadline:
                text = f"component {recipe.name}: its dependencies {late} are not up after {limit_s:g} s"
                raise DeploymentError(text, "COMPONENT_NOT_HEALTHY")
            await asyncio.sleep(_POLL_S)
