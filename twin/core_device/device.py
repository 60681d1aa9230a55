"""The core device: its parts put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from config.public_components import PUBLIC_COMPONENTS
from twin.clock import CLOCK, Clock
from twin.core_device.cloud.connection import Connection
from twin.core_device.cloud.credentials import CredentialEndpoint, TokenExchange
from twin.core_device.cloud.https import CloudHttp, DataPlane, DeviceTls
from twin.core_device.components.component import Component, ComponentSupervisor
from twin.core_device.components.configuration_store import DEFAULT_TIMESTAMP_MS, ConfigurationStore
from twin.core_device.components.process import (
    NUCLEUS_VERSION,
    TOKEN_EXCHANGE_SERVICE,
    ComponentEnvironment,
    ComponentLog,
    Output,
    Spawn,
    Tokens,
    in_processes,
)
from twin.core_device.components.recipe import Recipe, Step
from twin.core_device.deployment.artifacts import Artifacts, ArtifactStore
from twin.core_device.deployment.deployer import Deployer, Resolver
from twin.core_device.deployment.jobs import DeploymentWorker, JobQueue
from twin.core_device.ipc.service import IpcService
from twin.process import TRIM_S, trim_memory

from .configuration import Configuration
from .files import Layout
from .health import FleetStatus
from .ipc.server import IpcServer
from .processes import ProcessRegistry

if TYPE_CHECKING:
    from twin.core_device.client_devices.plugins import ClientDevices

log = logging.getLogger(__name__)


class Machine:
    """What a core device runs on: a clock, folders, a network, and something that runs components.

    This is the machine of one device, with processes and an IPC; a simulated device has another one.

    Args:
        configuration: The device's.
    """

    clock: Clock = CLOCK
    mqtt_address: tuple[str, int] | None = None
    spool: Path | None = None

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.layout = Layout(configuration.system.root_path)
        self.spool = self.layout.spool_file
        self._registry = ProcessRegistry(self.layout.processes_file)

    def tls(self) -> DeviceTls:
        """What the device's connections show."""
        return DeviceTls(self.configuration)

    def turn(self, http: CloudHttp) -> AbstractAsyncContextManager[object]:  # noqa: ARG002 - another machine closes it
        """Entered while the device asks the cloud for a deployment."""
        return nullcontext()

    def artifacts(self, http: CloudHttp, token_exchange: TokenExchange, data_plane: DataPlane) -> Artifacts:
        """Where artifacts are fetched to."""
        nucleus = self.configuration.nucleus
        return ArtifactStore(self.layout, nucleus.region, http, token_exchange, data_plane, nucleus.dialect.file_mode)

    def components(self, recipe: Recipe) -> tuple[Spawn, Output]:
        """What runs a component's steps, and takes their output."""
        output = ComponentLog(self.layout.component_log(recipe.name))
        user = self.configuration.nucleus.component_user
        return in_processes(self.layout.work(recipe.name), output, self._registry, user), output

    def services(self, device: CoreDevice) -> Services:
        """What the device's components find on it."""
        return LocalServices(device)

    async def keep_memory_low(self) -> None:
        """Give back again and again what a crowd of messages took for a moment."""
        while True:
            await asyncio.sleep(TRIM_S)
            trim_memory()

    def boot(self) -> None:
        """Begin: end what a killed predecessor has left."""
        if self.configuration.nucleus.component_user is not None:
            os.umask(0o022)  # that of system services: components read their artifacts
        self._registry.end_leftovers()


class Services:
    """What components find on their device; nothing, where no processes are components.

    Attributes:
        socket: Of the IPC.
    """

    socket = Path()

    async def start(self) -> str:
        """Begin; the URL of the credential endpoint."""
        return ""

    async def stop(self) -> None:
        """End."""

    def disconnect(self, component: str) -> None:
        """A component has been stopped."""

    def played(self, recipe: Recipe, output: Output) -> tuple[Recipe, Spawn] | None:  # noqa: ARG002 - none is
        """What runs in place of a component of AWS's whose part the device plays; None for all others."""
        return None

    async def lose(self, daemon: str) -> str:  # noqa: ARG002 - there is none
        """Start a daemon anew; the URL of the credential endpoint if it is another one from here on."""
        return ""


class LocalServices(Services):
    """The IPC socket and the credential endpoint of a device."""

    def __init__(self, device: CoreDevice) -> None:
        nucleus, thing_name = device.configuration.nucleus, device.configuration.system.thing_name
        dialect, self._device = nucleus.dialect, device
        self._credentials = CredentialEndpoint(
            device.token_exchange, device.tokens.component, as_lite=dialect.null_credentials
        )
        named = thing_name if dialect.fills_policies else None
        self._service = IpcService(
            device.tokens, device.store, device.save_configuration, device.connection, device.components, named
        )
        self._ipc = IpcServer(self._service, dialect.ipc)
        self._layout = device.layout
        self._client_devices: ClientDevices | None = None

    async def start(self) -> str:
        """Begin; the URL of the credential endpoint."""
        url = await self._serve_credentials()
        await self._listen()
        return url

    async def _listen(self) -> None:
        self.socket = self._layout.ipc_socket()
        await self._ipc.start(self.socket)
        if (user := self._device.configuration.nucleus.component_user) is not None:
            os.chown(self.socket, user.uid, user.gid)

    async def _serve_credentials(self) -> str:
        url = await self._credentials.start()
        # As nucleus lite does: at any free port, which its configuration tells.
        port = {"port": str(urlsplit(url).port)}
        self._device.store.merge(TOKEN_EXCHANGE_SERVICE, (), port, int(CLOCK.time() * 1000))
        return url

    async def stop(self) -> None:
        """End, and leave no socket behind."""
        await self._ipc.stop()
        await self._credentials.stop()
        with contextlib.suppress(OSError):
            self._layout.remove_ipc_socket()

    def disconnect(self, component: str) -> None:
        """Close a stopped component's connections."""
        self._ipc.disconnect(component)

    def played(self, recipe: Recipe, output: Output) -> tuple[Recipe, Spawn] | None:
        """Auth, broker, bridge and IP detector for client devices, which nucleus lite does not have."""
        if recipe.name not in PUBLIC_COMPONENTS or not self._device.configuration.nucleus.dialect.plays_plugins:
            return None
        if self._client_devices is None:
            # Here: broker and certificates are loaded on a device that has client devices only.
            from twin.core_device.client_devices.plugins import ClientDevices

            self._client_devices = ClientDevices(self._device, self._service.topics, self._device.http)
        steps = {"run": Step("run", "", 0.0, {})}
        return replace(recipe, steps=steps), self._client_devices.spawn(recipe.name, output)

    async def lose(self, daemon: str) -> str:
        """Start a daemon of nucleus lite anew: `ipc`, `token`, or one whose subscriptions go; or the `broker`."""
        if daemon == "broker":
            if self._client_devices is not None:
                self._client_devices.renew()
        elif daemon == "ipc":
            await self._ipc.stop()
            for name in self._device.components:
                self._device.tokens.revoke(name)
            await self._listen()
        elif daemon == "token":
            return await self._serve_credentials()
        else:
            self._service.forget(daemon)
        return ""


class CoreDevice:
    """A Greengrass core device; make it on a running event loop.

    Args:
        configuration: What it was told at its installation.
        machine: What it runs on; by default this one.
    """

    def __init__(self, configuration: Configuration, machine: Machine | None = None) -> None:
        thing_name, dialect = configuration.system.thing_name, configuration.nucleus.dialect
        self.configuration = configuration
        self._machine = machine = machine or Machine(configuration)
        self.layout = layout = machine.layout
        self.tokens = Tokens()
        self.store = ConfigurationStore(
            layout.configuration_file, ignores_case=dialect.ignores_case, documents=layout.documents
        )
        tls = machine.tls()
        self.http = CloudHttp(configuration, tls)
        self.connection = Connection(
            configuration,
            packet_bytes=dialect.packet_bytes,
            keeps_messages=dialect.keeps_messages,
            sends_properties=dialect.sends_properties,
            spool=machine.spool,
            tls=tls,
            address=machine.mqtt_address,
        )
        self.token_exchange = TokenExchange(configuration, self.http, Clock(skew_s=machine.clock.skew_s))
        data_plane = DataPlane(configuration, self.http)
        self._supervisor = ComponentSupervisor(self._make_component, self._on_stopped, binds_to=dialect.binds_to)
        self._deployer = Deployer(
            layout,
            thing_name,
            Resolver(layout, data_plane, dialect, configuration.nucleus.architecture),
            machine.artifacts(self.http, self.token_exchange, data_plane),
            self.store,
            self._supervisor,
            data_plane,
            dialect,
            lambda: machine.turn(self.http),
        )
        self.components: Mapping[str, Component] = self._supervisor.components
        self._health = FleetStatus(
            self.connection,
            thing_name,
            self.components,
            lambda: self._deployer.deployed,
            lambda: self._deployer.busy,
            dialect,
            machine.clock,
            configuration.nucleus.architecture,
        )
        self._worker = DeploymentWorker(
            layout.job_file, self._deployer, self._health.deployment_done, dialect, layout.documents
        )
        self._jobs = JobQueue(self.connection, thing_name, self._worker.offer)
        self._services = machine.services(self)
        self._environment: ComponentEnvironment | None = None

    @property
    def deploying(self) -> bool:
        """Whether a deployment is under way."""
        return self._deployer.busy

    async def run(self) -> None:
        """Run until cancelled; then everything that was started is stopped."""
        nucleus = self.configuration.nucleus
        dialect = nucleus.dialect.name
        log.info(
            "core device %s starts, dialect %s, process %d", self.configuration.system.thing_name, dialect, os.getpid()
        )
        self._machine.boot()
        own = {"version": NUCLEUS_VERSION, "awsRegion": nucleus.region}
        self.store.merge("aws.greengrass.NucleusLite", (), own, DEFAULT_TIMESTAMP_MS)
        credentials_url = await self._services.start()
        self._environment = ComponentEnvironment(
            self.configuration,
            self.layout,
            self._services.socket,
            credentials_url,
            self.tokens,
            self.store.get,
            self._component_version,
        )
        await self._jobs.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.connection.run())
                tasks.create_task(self._health.run())
                # First what ran before: a deployment compares with it.
                await self._deployer.start_deployed()
                tasks.create_task(self._worker.run(self._jobs))
                tasks.create_task(self._machine.keep_memory_low())
        finally:
            log.info("core device stops")
            await self._supervisor.stop_all()
            await self._services.stop()
            await self.http.close()

    async def lose(self, daemon: str) -> None:
        """Do as nucleus lite does when one of its daemons starts anew: components are told nothing.

        Args:
            daemon: `ipc`: no running component can connect again. `mqtt`, `config`, `pubsub`: what components have
                subscribed to there is gone. `token`: the credentials are at another port. `broker`, which nucleus lite
                does not have: client devices are disconnected, and find a new certificate.
        """
        log.warning("the daemon %s is started anew: components that run do not know", daemon)
        url = await self._services.lose(daemon)
        if url and self._environment is not None:
            self._environment.credentials_url = url
        if daemon == "mqtt":
            self.connection.reconnect()

    def _make_component(self, recipe: Recipe) -> Component:
        environment = self._environment
        assert environment is not None  # noqa: S101 - components are made only once the device runs
        spawn, output = self._machine.components(recipe)
        if played := self._services.played(recipe, output):
            recipe, spawn = played
        return Component(
            recipe,
            lambda step: environment.prepare(recipe, step),
            spawn,
            output,
            self._component_changed,
            dialect=self.configuration.nucleus.dialect,
        )

    def _component_changed(self, name: str) -> None:
        self._supervisor.component_changed(name)
        self._health.component_changed(name)

    def _component_version(self, name: str) -> str | None:
        component = self._supervisor.components.get(name)
        return component.recipe.version if component else None

    def _on_stopped(self, component: str) -> None:
        self.tokens.revoke(component)
        self._services.disconnect(component)

    def save_configuration(self) -> None:
        """Write what components have changed of their configurations."""
        # While a deployment changes the device, the file keeps the state before it; its end writes the new one.
        if not self._deployer.changing:
            self.store.save()
