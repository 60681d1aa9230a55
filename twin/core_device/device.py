"""The core device: its parts put together, started and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from twin.core_device.cloud.connection import Connection
from twin.core_device.cloud.credentials import CredentialEndpoint, TokenExchange
from twin.core_device.cloud.https import CloudHttp, DataPlane
from twin.core_device.components.component import Component
from twin.core_device.components.configuration_store import DEFAULT_TIMESTAMP_MS, ConfigurationStore
from twin.core_device.components.environment import (
    NUCLEUS_VERSION,
    TOKEN_EXCHANGE_SERVICE,
    ComponentEnvironment,
    Tokens,
)
from twin.core_device.components.process import ComponentLog
from twin.core_device.components.recipe import Recipe
from twin.core_device.components.supervisor import ComponentSupervisor
from twin.core_device.deployment.artifacts import ArtifactStore
from twin.core_device.deployment.deployer import Deployer
from twin.core_device.deployment.jobs import DeploymentWorker, JobQueue
from twin.core_device.deployment.resolution import Resolver
from twin.core_device.ipc.service import IpcService

from .configuration import Configuration
from .files import Layout
from .health import FleetStatus
from .ipc.server import IpcServer
from .processes import ProcessRegistry

log = logging.getLogger(__name__)


class CoreDevice:
    """A Greengrass core device on one root folder; make it on a running event loop.

    Args:
        configuration: What it was told at its installation.
    """

    def __init__(self, configuration: Configuration) -> None:
        thing_name = configuration.system.thing_name
        self._configuration = configuration
        self._layout = layout = Layout(configuration.system.root_path)
        self._registry = ProcessRegistry(layout.processes_file)
        self._tokens = Tokens()
        self._store = ConfigurationStore(
            layout.configuration_file, ignores_case=configuration.nucleus.dialect.ignores_case
        )
        self._http = CloudHttp(configuration)
        dialect = configuration.nucleus.dialect
        self._connection = Connection(
            configuration,
            packet_bytes=dialect.packet_bytes,
            keeps_messages=dialect.keeps_messages,
            sends_properties=dialect.sends_properties,
        )
        token_exchange = TokenExchange(configuration, self._http)
        data_plane = DataPlane(configuration, self._http)
        self._credential_endpoint = CredentialEndpoint(
            token_exchange, self._tokens.component, as_lite=dialect.null_credentials
        )
        self._supervisor = ComponentSupervisor(self._make_component, self._on_stopped, binds_to=dialect.binds_to)
        self._deployer = Deployer(
            layout,
            thing_name,
            Resolver(layout, data_plane, dialect),
            ArtifactStore(
                layout,
                configuration.nucleus.region,
                self._http,
                token_exchange,
                data_plane,
                dialect.file_mode,
            ),
            self._store,
            self._supervisor,
            data_plane,
            dialect,
        )
        components = self._supervisor.components
        self._health = FleetStatus(
            self._connection,
            thing_name,
            components,
            lambda: self._deployer.deployed,
            lambda: self._deployer.busy,
            dialect,
        )
        self._worker = DeploymentWorker(layout.job_file, self._deployer, self._health.deployment_done, dialect)
        self._jobs = JobQueue(self._connection, thing_name, self._worker.offer)
        named = thing_name if dialect.fills_policies else None
        service = self._service = IpcService(
            self._tokens, self._store, self._save_configuration, self._connection, components, named
        )
        self._ipc = IpcServer(service, dialect.ipc)
        self._environment: ComponentEnvironment | None = None

    async def run(self) -> None:
        """Run until cancelled; then everything that was started is stopped."""
        nucleus = self._configuration.nucleus
        dialect = nucleus.dialect.name
        log.info(
            "core device %s starts, dialect %s, process %d", self._configuration.system.thing_name, dialect, os.getpid()
        )
        if nucleus.component_user is not None:
            os.umask(0o022)  # that of system services: components read their artifacts
        self._registry.end_leftovers()
        own = {"version": NUCLEUS_VERSION, "awsRegion": nucleus.region}
        self._store.merge("aws.greengrass.NucleusLite", (), own, DEFAULT_TIMESTAMP_MS)
        socket = self._layout.ipc_socket()
        self._environment = ComponentEnvironment(
            self._configuration,
            self._layout,
            socket,
            await self._serve_credentials(),
            self._tokens,
            self._store.get,
            self._component_version,
        )
        await self._listen(socket)
        await self._jobs.start()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._connection.run())
                tasks.create_task(self._health.run())
                # First what ran before: a deployment compares with it.
                await self._deployer.start_deployed()
                tasks.create_task(self._worker.run(self._jobs))
        finally:
            log.info("core device stops")
            await self._supervisor.stop_all()
            await self._ipc.stop()
            await self._credential_endpoint.stop()
            await self._http.close()
            with contextlib.suppress(OSError):
                self._layout.remove_ipc_socket()

    async def lose(self, daemon: str) -> None:
        """Do as nucleus lite does when one of its daemons starts anew: components are told nothing.

        Args:
            daemon: `ipc`: no running component can connect again. `mqtt`, `config`, `pubsub`: what components have
                subscribed to there is gone. `token`: the credentials are at another port.
        """
        log.warning("the daemon %s is started anew: components that run do not know", daemon)
        if daemon == "ipc":
            await self._ipc.stop()
            for name in self._supervisor.components:
                self._tokens.revoke(name)
            await self._listen(self._layout.ipc_socket())
        elif daemon == "token":
            await self._serve_credentials()
        else:
            self._service.forget(daemon)
        if daemon == "mqtt":
            self._connection.reconnect()

    async def _listen(self, socket: Path) -> None:
        await self._ipc.start(socket)
        if (user := self._configuration.nucleus.component_user) is not None:
            os.chown(socket, user.uid, user.gid)

    async def _serve_credentials(self) -> str:
        url = await self._credential_endpoint.start()
        if self._environment is not None:
            self._environment.credentials_url = url
        # As nucleus lite does: at any free port, which its configuration tells.
        port = {"port": str(urlsplit(url).port)}
        self._store.merge(TOKEN_EXCHANGE_SERVICE, (), port, int(time.time() * 1000))
        return url

    def _make_component(self, recipe: Recipe) -> Component:
        environment = self._environment
        assert environment is not None  # noqa: S101 - components are made only once the device runs
        return Component(
            recipe,
            self._layout.work(recipe.name),
            lambda step: environment.prepare(recipe, step),
            ComponentLog(self._layout.component_log(recipe.name)),
            self._registry,
            self._component_changed,
            dialect=self._configuration.nucleus.dialect,
            user=self._configuration.nucleus.component_user,
        )

    def _component_changed(self, name: str) -> None:
        self._supervisor.component_changed(name)
        self._health.component_changed(name)

    def _component_version(self, name: str) -> str | None:
        component = self._supervisor.components.get(name)
        return component.recipe.version if component else None

    def _on_stopped(self, component: str) -> None:
        self._tokens.revoke(component)
        self._ipc.disconnect(component)

    def _save_configuration(self) -> None:
        # During a deployment the file keeps the state before it; the deployment's end writes the new one.
        if not self._deployer.busy:
            self._store.save()
