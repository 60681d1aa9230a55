"""What a simulated device runs on: steps that are models of processes, and storage that it shares with others."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twin.clock import CLOCK
from twin.core_device.cloud.credentials import TokenExchange
from twin.core_device.cloud.https import CloudHttp, DataPlane, DeviceTls, tls_context
from twin.core_device.components.process import Output, RunningStep, Spawn
from twin.core_device.components.recipe import Artifact, Recipe, Step
from twin.core_device.configuration import Configuration
from twin.core_device.deployment.artifacts import ArtifactStore
from twin.core_device.deployment.deployer import PREPARE_LIMIT_S
from twin.core_device.device import CoreDevice, Machine, Services
from twin.core_device.errors import DeploymentError, RequestRejectedError
from twin.core_device.files import Layout

from .profile import Answer as AnswerTo
from .profile import Behaviour, Lot, Message, Profile
from .storage import Database, Download, Downloads, Ledger

log = logging.getLogger(__name__)

AT_ONCE = 16
"""Devices of a process that ask the cloud for a deployment at the same time; the others wait for their turn."""

_KILLED, _TERMINATED = -9, -15


class SimulatedArtifacts(ArtifactStore):
    """A device's artifacts: asked for, checked and counted as on any device, kept once for all."""

    def __init__(self, machine: SimulatedMachine, *parts: Any) -> None:
        super().__init__(*parts)
        self._machine, self._shared = machine, machine.fleet.downloads
        self._present: dict[str, str] = {}

    async def prepare(self, recipe: Recipe, arn: str) -> None:
        """As `ArtifactStore.prepare`, without files of the device's own."""
        for artifact in recipe.artifacts:
            where = f"component {recipe.name} {recipe.version}, artifact {artifact.uri}"
            if artifact.digest and self._present.get(artifact.uri) == artifact.digest:
                continue
            try:
                download = await self._fetch(artifact, arn, where)
            except DeploymentError as exc:
                text = str(exc) if str(exc).startswith(where) else f"{where}: {exc}"
                raise DeploymentError(text, exc.kind) from exc
            self._check(artifact, download.digest, where)
            if artifact.unzip and download.damage:
                raise DeploymentError(f"{where}: {download.damage}", download.damage.kind)
            self._present[artifact.uri] = download.digest
            self._machine.receive(download.size)

    async def _fetch(self, artifact: Artifact, arn: str, where: str) -> Download:
        lock = self._shared.locks.setdefault(artifact.uri, asyncio.Lock())
        if artifact.uri not in self._shared.by_uri:
            async with lock:
                return await self._ask(artifact, arn, where)
        return await self._ask(artifact, arn, where)

    async def _ask(self, artifact: Artifact, arn: str, where: str) -> Download:
        known = self._shared.by_uri.get(artifact.uri)
        with tempfile.TemporaryDirectory(dir=self._shared.folder) as folder:
            path = Path(folder) / "object"
            tag = await self._download(artifact, path, arn, where, tag=known.tag if known else None)
            if known and tag is None:
                self._shared.counted_bytes += known.size
                return known
            return await self._shared.keep(artifact.uri, path, tag or "", unzip=artifact.unzip)


class NoOutput(Output):
    """A modelled component's output: the line that its profile gives to a failure."""

    def __init__(self) -> None:
        self.line = ""

    def write(self, output: bytes) -> None:
        """Nothing is kept."""

    def note(self, text: str) -> None:
        """Nothing is kept."""

    def forget_output(self) -> None:
        """Begin a new step."""
        self.line = ""

    def last_line(self) -> str:
        """The line of the failure that is to come, or nothing."""
        return self.line

    def close(self) -> None:
        """Nothing is open."""


class ModelledStep(RunningStep):
    """The model of a process group: it ends by itself, or when it is told to.

    Args:
        number: In place of a pid.
        ends_s: When it ends by itself; None: never.
        status: Exit status at that.
        cleanup: Done at the end; told whether it came by itself.
    """

    def __init__(self, number: int, ends_s: float | None, status: int, cleanup: Callable[[bool], None]) -> None:
        self._number, self._status, self._cleanup = number, status, cleanup
        self._ended = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        if ends_s is not None:
            self._timer = CLOCK.call_later(ends_s, lambda: self._end(self._status, by_itself=True))

    @property
    def pid(self) -> int:
        """A number of its own."""
        return self._number

    async def wait(self) -> int:
        """Wait for its end."""
        return int(await asyncio.shield(self._ended))

    async def stop(self, grace_s: float) -> None:  # noqa: ARG002 - a model ends at once
        """End it."""
        self._end(_TERMINATED)

    def _end(self, status: int, *, by_itself: bool = False) -> None:
        if self._timer:
            self._timer.cancel()
        if not self._ended.done():
            self._ended.set_result(status)
            self._cleanup(by_itself)


@dataclass
class SharedParts:
    """What the devices of a process have in common.

    Args:
        profile: What they do.
        folder: Of the fleet.
        database: Their documents.
        mqtt_address: Where the cloud's MQTT listener is.
    """

    profile: Profile
    folder: Path
    database: Database
    mqtt_address: tuple[str, int] | None = None
    downloads: Downloads = field(init=False)
    slots: asyncio.Semaphore = field(init=False)
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.downloads = Downloads(self.folder / "downloads")
        self.slots = asyncio.Semaphore(AT_ONCE)
        self._anonymous: ssl.SSLContext | None = None

    def anonymous(self, configuration: Configuration) -> ssl.SSLContext:
        """The context without a certificate, one for all."""
        if self._anonymous is None:
            self._anonymous = tls_context(configuration)
        return self._anonymous


class _SharedTls(DeviceTls):
    """A simulated device's contexts: its certificate is never replaced, and lies in no file of its own."""

    def __init__(
        self, configuration: Configuration, fleet: SharedParts, identity: Callable[[], ssl.SSLContext]
    ) -> None:
        super().__init__(configuration)
        self._fleet, self._identity = fleet, identity
        self._own: ssl.SSLContext | None = None

    def context(self, *, identified: bool) -> ssl.SSLContext:
        """Made once."""
        if not identified:
            return self._fleet.anonymous(self._configuration)
        if self._own is None:
            self._own = self._identity()
        return self._own

    def renew(self, context: ssl.SSLContext) -> None:
        """It stays as it is."""

    def version(self) -> tuple[float, ...]:
        """Always the same."""
        return ()


class SimulatedMachine(Machine):
    """The machine of a simulated device.

    Args:
        configuration: The device's.
        fleet: What it shares with others.
        identity: Makes its TLS context.
    """

    def __init__(
        self, configuration: Configuration, fleet: SharedParts, identity: Callable[[], ssl.SSLContext]
    ) -> None:
        self.configuration, self.fleet, self._identity = configuration, fleet, identity
        self.layout = Layout(configuration.system.root_path, fleet.database)
        self.ledger = Ledger()
        self.clock = CLOCK.skewed(self.lot.skew_s)
        self.mqtt_address = fleet.mqtt_address
        self.memory_mb = 0.0
        self._owed_bytes = 0
        self._device: CoreDevice | None = None
        self._failed: dict[tuple[str, str, str], int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def lot(self) -> Lot:
        """What falls to it, by the profile that counts now."""
        return Lot(self.fleet.profile, self.configuration.system.thing_name)

    async def keep_memory_low(self) -> None:
        """The process has many devices: it does so once for all."""

    def boot(self) -> None:
        """No process outlives its device here."""

    def tls(self) -> DeviceTls:
        """One context for MQTT and HTTPS, and one without a certificate for all devices."""
        return _SharedTls(self.configuration, self.fleet, self._identity)

    def services(self, device: CoreDevice) -> Services:
        """None: there are no processes that could ask for one."""
        self._device = device
        return Services()

    def artifacts(self, http: CloudHttp, token_exchange: TokenExchange, data_plane: DataPlane) -> SimulatedArtifacts:
        """Downloads that are shared."""
        nucleus = self.configuration.nucleus
        parts = (self.layout, nucleus.region, http, token_exchange, data_plane, nucleus.dialect.file_mode)
        return SimulatedArtifacts(self, *parts)

    @contextlib.asynccontextmanager
    async def turn(self, http: CloudHttp) -> AsyncIterator[None]:
        """Wait for a turn, and for the network; what was downloaded takes as long as the bandwidth says.

        Raises:
            TimeoutError: That is longer than a deployment may take.
        """
        await self._connection.reachable()
        async with self.fleet.slots:
            try:
                yield
            finally:
                await http.close()
        bandwidth, owed = self.fleet.profile.bandwidth_kbit_s, self._owed_bytes
        self._owed_bytes = 0
        if bandwidth and owed:
            needed_s = owed * 8 / 1000 / bandwidth
            self.ledger.reach(self.ledger.now_s + needed_s, deploying=True)
            await CLOCK.sleep(min(needed_s, PREPARE_LIMIT_S))
            if needed_s > PREPARE_LIMIT_S:
                raise TimeoutError(f"{owed} bytes at {bandwidth:g} kbit/s take {needed_s:.0f} s")

    def receive(self, size: int) -> None:
        """Note bytes that the device has downloaded."""
        self.ledger.receive(size)
        self._owed_bytes += size

    def components(self, recipe: Recipe) -> tuple[Spawn, Output]:
        """The model of a component."""
        output = NoOutput()

        async def spawn(step: Step, _script: str, _environment: Mapping[str, str]) -> RunningStep:
            return self._begin(recipe, step, output)

        return spawn, output

    @property
    def _connection(self) -> Any:
        assert self._device is not None  # noqa: S101 - set while the device is made
        return self._device.connection

    def _begin(self, recipe: Recipe, step: Step, output: NoOutput) -> ModelledStep:
        device = self._device
        assert device is not None  # noqa: S101 - set while the device is made
        dialect = self.configuration.nucleus.dialect.name
        try:
            configuration = device.store.get(recipe.name)
        except KeyError:
            configuration = {}
        behaviour = self.lot.behaviour(recipe, dialect, configuration)
        ends_s, status = self._ending(recipe, step, behaviour, output)
        if step.name != "run":
            reached_s = self.ledger.now_s + min(ends_s or 0.0, step.timeout_s)
            return self._step(ends_s, status, lambda _by_itself: self._reach(reached_s))
        return self._run(recipe.name, behaviour, ends_s, status, output)

    def _step(self, ends_s: float | None, status: int, cleanup: Callable[[bool], None]) -> ModelledStep:
        return ModelledStep(next(self.fleet.numbers), ends_s, status, cleanup)

    def _reach(self, moment_s: float) -> None:
        self.ledger.reach(moment_s, deploying=self._device is not None and self._device.deploying)

    def _ending(self, recipe: Recipe, step: Step, behaviour: Behaviour, output: NoOutput) -> tuple[float | None, int]:
        what = (step.name, recipe.name, recipe.version)
        failure = behaviour.exit
        if failure and failure.step == step.name:
            times = self._failed.get(what, 0)
            if failure.times is None or times < failure.times:
                self._failed[what] = times + 1
                output.line = failure.output
                return self.lot.between(failure.after_s, "exit", *what), failure.status
        if step.name == "run":
            return None, 0
        span = behaviour.start_s if step.name == "startup" else behaviour.install_s
        return self.lot.between(span, *what), 0

    def _run(
        self, name: str, behaviour: Behaviour, ends_s: float | None, status: int, output: NoOutput
    ) -> ModelledStep:
        limit, memory_mb = self.fleet.profile.memory_mb, behaviour.memory_mb
        if limit is not None and self.memory_mb + memory_mb > limit:
            output.line = f"out of memory: {self.memory_mb + memory_mb:g} MB of {limit:g}"
            ends_s, status, memory_mb, behaviour = 0.1, _KILLED, 0.0, Behaviour()
        self.memory_mb += memory_mb
        serving: list[asyncio.Task[None]] = []
        start_s = self.lot.between(behaviour.start_s, "start")
        began_s, deploying = self.ledger.now_s, self._device is not None and self._device.deploying
        self.ledger.start(name, start_s, deploying=deploying)

        def cleanup(by_itself: bool) -> None:
            self.memory_mb -= memory_mb
            for task in serving:
                task.cancel()
            if by_itself and ends_s is not None:
                self._reach(began_s + ends_s)
            if not by_itself or status != 0:  # what has finished is not down
                self.ledger.stop(name)

        step = self._step(ends_s, status, cleanup)
        serving += [self._task(self._send(message, start_s)) for message in behaviour.messages]
        serving += [self._task(self._serve(answer, start_s)) for answer in behaviour.answers]
        return step

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _send(self, message: Message, start_s: float) -> None:
        # Spread over the interval: devices do not beat in time.
        await CLOCK.sleep(start_s + message.every_s * self.lot.chance("beat", message.topic))
        number = 0
        while True:
            number += 1
            content = {**message.payload, "thing": self.configuration.system.thing_name, "number": number}
            self._publish(message.topic, {**content, "timestamp": round(self.clock.time(), 3)})
            await CLOCK.sleep(message.every_s)

    async def _serve(self, answer: AnswerTo, start_s: float) -> None:
        await CLOCK.sleep(start_s)

        def receive(_topic: str, payload: bytes) -> None:
            self._task(self._answer(answer, payload))

        end = await self._connection.subscribe(self._topic(answer.topic), 1, receive)
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            end()

    async def _answer(self, answer: AnswerTo, payload: bytes) -> None:
        try:
            request = json.loads(payload)
            identifier = request["request_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        await CLOCK.sleep(self.lot.between(answer.after_s, "answer", identifier))
        self._publish(answer.answer, {**answer.payload, "request_id": identifier})

    def _publish(self, topic: str, content: Mapping[str, Any]) -> None:
        try:
            self._connection.publish(self._topic(topic), json.dumps(content, separators=(",", ":")).encode(), qos=1)
        except RequestRejectedError as exc:
            log.debug("not sent: %s", exc)

    def _topic(self, topic: str) -> str:
        return topic.replace("{thing}", self.configuration.system.thing_name)
