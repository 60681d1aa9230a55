"""Components on the device: each one's life from install to stop, and the change from one set of them to another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nucleus_lite.recipe import ATTEMPTS as LITE_ATTEMPTS
from twin.clock import CLOCK
from twin.core_device.dialect import LITE, Dialect
from twin.core_device.errors import Backoff, DeploymentError

from .process import Output, RunningStep, Spawn
from .recipe import Recipe, Step

ATTEMPTS: int = LITE_ATTEMPTS.value  # failures that make a component BROKEN


#: Done, and done once the nucleus (100) or the device (101) is started again, which this device does without.
_BOOTSTRAPPED = (0, 100, 101)


class State(StrEnum):
    """A component's state as fleet status reports it."""

    NEW = "NEW"
    INSTALLED = "INSTALLED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    ERRORED = "ERRORED"
    BROKEN = "BROKEN"
    FINISHED = "FINISHED"
    STOPPING = "STOPPING"


@dataclass(frozen=True)
class Patience:
    """How long the device waits for components, in seconds.

    Args:
        stable_s: A process that runs this long is taken to be well.
        reset_s: A process that ran this long begins a new row of failures, where only those in a row count.
        restart_s: Shortest wait before a restart; the longest begins at twice that and doubles with each failure.
        grace_s: From SIGTERM to SIGKILL.
    """

    stable_s: float = 3.0
    reset_s: float = 10.0
    restart_s: float = 1.0
    grace_s: float = 10.0


log = logging.getLogger(__name__)


Prepare = Callable[[Step], tuple[str, Mapping[str, str]]]


class Component:
    """One version of a component on this device.

    Args:
        recipe: What to install and run.
        prepare: A step's script and environment with all variables replaced.
        spawn: Starts a step.
        output: Its log.
        on_state: Called after each change of state.
        patience: How long to wait for it.
        dialect: How often it is started and installed.
    """

    def __init__(
        self,
        recipe: Recipe,
        prepare: Prepare,
        spawn: Spawn,
        output: Output,
        on_state: Callable[[str], None],
        patience: Patience | None = None,
        *,
        dialect: Dialect = LITE,
    ) -> None:
        self.recipe = recipe
        self.state = State.NEW
        self.failure = ""
        self.installed = False
        self._prepare, self._spawn, self._output = prepare, spawn, output
        self._on_state, self._patience = on_state, patience or Patience()
        self._dialect = dialect
        self._task: asyncio.Task[None] | None = None
        self._running_since = 0.0
        self._reported = False

    @property
    def settled(self) -> bool:
        """It has finished, says that it runs, or has run for a while."""
        if self.state is State.RUNNING:
            return self._reported or CLOCK.monotonic() - self._running_since >= self._patience.stable_s
        return self.state is State.FINISHED

    def report(self, state: State) -> None:
        """Take the component's own word for its state; it cannot claim to run when it does not."""
        if self.state in (State.STARTING, State.RUNNING, State.ERRORED) and self._task and not self._task.done():
            self._reported = state is State.RUNNING
            self._set(state)

    def stop_bound(self, dependency: str) -> None:
        """Stop for good because a HARD dependency has ended, as systemd's `BindsTo` does on nucleus lite."""
        if self._task and not self._task.done():
            self._task.cancel()
            self._break(
                self._text(
                    f"stopped because its HARD dependency {dependency} has ended, which nucleus lite does even after "
                    "exit status 0: make the dependency SOFT"
                )
            )

    def leave_out(self, why: str) -> None:
        """Do not run it, and say why: it is BROKEN."""
        self._break(self._text(why))

    async def install(self) -> None:
        """Run the bootstrap step, which a classic component may have, and the install step.

        Raises:
            DeploymentError: One fails or takes too long; the component is BROKEN.
        """
        for step in filter(None, map(self.recipe.steps.get, ("bootstrap", "install"))):
            for attempt in range(1, self._dialect.install_attempts + 1):
                try:
                    await self._complete(step)
                    break
                except DeploymentError as exc:
                    if attempt == self._dialect.install_attempts:
                        self._break(str(exc))
                        raise
                    log.warning("%s; it is tried again", exc)
        self.installed = True
        self._set(State.INSTALLED)

    def start(self) -> None:
        """Begin to run; from here on the component is kept running."""
        self._set(State.STARTING)
        self._task = asyncio.create_task(self._live())

    async def stop(self) -> None:
        """End the component's processes, within the grace period and a little."""
        if self._task and not self._task.done():
            if self.state is not State.STOPPING:  # else whoever stopped it before was cancelled
                self._set(State.STOPPING)
                await self._shut_down()
            self._task.cancel()
            # Not awaited itself: who waits here may be cancelled, too, and must hear of it.
            await asyncio.wait([self._task])
        self._task = None
        self._output.close()

    async def _shut_down(self) -> None:
        """Run the shutdown step of a classic component; what it leaves running is ended all the same."""
        await self._attend("shutdown")

    async def _attend(self, name: str) -> None:
        """Run a step whose failure changes nothing."""
        step = self.recipe.steps.get(name)
        if step:
            try:
                await self._complete(step)
            except DeploymentError as exc:
                log.warning("%s", exc)

    async def _live(self) -> None:
        backoff = Backoff(2 * self._patience.restart_s, 60.0, self._patience.restart_s)
        failed: list[float] = []
        window_s = self._dialect.start_window_s
        while True:
            began = CLOCK.monotonic()
            self._reported = False
            try:
                if "startup" in self.recipe.steps:
                    await self._complete(self.recipe.steps["startup"])
                    self._set_running()
                await self._run()
                return
            except DeploymentError as exc:
                failure = str(exc)
            except OSError as exc:
                failure = self._text(f"cannot be started: {exc}")
            now = CLOCK.monotonic()
            if now - began >= self._patience.reset_s:
                backoff.reset()
                failed = [] if window_s is None else failed
            failed = [*(moment for moment in failed if window_s is None or now - moment < window_s), now]
            if len(failed) >= ATTEMPTS:
                within = "in a row" if window_s is None else f"within {window_s:g} s"
                self._break(f"{failure} ({len(failed)} failures {within})")
                return
            self.failure = failure
            log.warning("%s; it is started again", failure)
            self._set(State.ERRORED)
            await self._attend("recover")
            await CLOCK.sleep(backoff.next_s())
            self._set(State.STARTING)

    async def _run(self) -> None:
        step = self.recipe.steps.get("run")
        if step is None:
            if "startup" not in self.recipe.steps:
                self._set(State.FINISHED)
            return
        status = await self._execute(step, self._set_running)
        if status != 0:
            raise DeploymentError(self._failed(step, status), "COMPONENT_RUN_ERROR")
        self._set(State.FINISHED)

    async def _complete(self, step: Step) -> None:
        try:
            async with CLOCK.timeout(step.timeout_s):
                status = await self._execute(step, None)
        except TimeoutError:
            text = self._text(f"the {step.name} step took more than {step.timeout_s:g} s{self._last_line()}")
            raise DeploymentError(text, f"COMPONENT_{step.name.upper()}_TIMEOUT") from None
        except OSError as exc:
            raise DeploymentError(self._text(f"the {step.name} step cannot be started: {exc}")) from exc
        if status not in (_BOOTSTRAPPED if step.name == "bootstrap" else (0,)):
            raise DeploymentError(self._failed(step, status), f"COMPONENT_{step.name.upper()}_ERROR")

    async def _execute(self, step: Step, on_started: Callable[[], None] | None) -> int:
        try:
            script, environment = self._prepare(step)
        except DeploymentError as exc:
            raise DeploymentError(self._text(f"the {step.name} step: {exc}"), exc.kind) from exc
        if _is_skipped(step, environment):
            self._output.note(f"{self.recipe.version} {step.name}: left out, {step.skip_if}")
            return 0
        self._output.forget_output()
        process = await self._begin(step, script, environment)
        self._output.note(f"{self.recipe.version} {step.name}: process {process.pid}")
        try:
            if on_started:
                on_started()
            status = await process.wait()
        except asyncio.CancelledError:
            await _to_the_end(process.stop(self._patience.grace_s))
            raise
        self._output.note(f"{self.recipe.version} {step.name}: exit status {status}")
        return status

    async def _begin(self, step: Step, script: str, environment: Mapping[str, str]) -> RunningStep:
        starting = asyncio.ensure_future(self._spawn(step, script, environment))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await _to_the_end(self._end_started(starting))
            raise

    async def _end_started(self, starting: Awaitable[RunningStep]) -> None:
        # Stopped in the moment of the start: the process may exist before asyncio hands it over.
        with contextlib.suppress(OSError):
            await (await starting).stop(self._patience.grace_s)

    def _set_running(self) -> None:
        # Its own word may have come before: a part that the device plays itself is quicker than its start.
        self._running_since = CLOCK.monotonic()
        self._set(State.RUNNING)

    def _break(self, failure: str) -> None:
        self.failure = failure
        log.error("%s", failure)
        self._set(State.BROKEN)

    def _set(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(self.recipe.name)

    def _failed(self, step: Step, status: int) -> str:
        ended = f"exited with {status}" if status >= 0 else f"was ended by signal {-status}"
        return self._text(f"the {step.name} step {ended}{self._last_line()}")

    def _last_line(self) -> str:
        line = self._output.last_line()
        return f", its last output was: {line}" if line else ", without any output"

    def _text(self, what: str) -> str:
        return f"component {self.recipe.name} {self.recipe.version}: {what}"


async def _to_the_end(work: Awaitable[None]) -> None:
    """Do what must not stay half done, however often the caller is cancelled meanwhile; the caller raises that on."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


def _is_skipped(step: Step, environment: Mapping[str, str]) -> bool:
    kind, _, what = step.skip_if.strip().partition(" ")
    if kind == "onpath":
        return shutil.which(what.strip(), path=environment.get("PATH")) is not None
    return kind == "exists" and Path(what.strip()).exists()


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
