"""A component's life on the device: installed, run, restarted, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from nucleus_lite import unit
from twin.clock import CLOCK
from twin.core_device.backoff import Backoff
from twin.core_device.dialect import LITE, Dialect
from twin.core_device.errors import DeploymentError

from .process import Output, RunningStep, Spawn
from .recipe import Recipe, Step

ATTEMPTS: int = unit.ATTEMPTS.value  # failures that make a component BROKEN


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
        self._running_since, self._reported = CLOCK.monotonic(), False
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
