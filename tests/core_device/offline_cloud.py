"""A deployer with real components, configuration and archives; only the cloud's answers are given."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import ssl
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import psutil

from twin.cloud.greengrass.recipe import satisfies
from twin.core_device.cloud.credentials import Credentials, TokenExchange
from twin.core_device.cloud.https import CloudHttp, DataPlane
from twin.core_device.components.component import Component, ComponentSupervisor, Patience
from twin.core_device.components.configuration_store import ConfigurationStore
from twin.core_device.components.process import ComponentEnvironment, ComponentProcess, RunningStep, Tokens
from twin.core_device.components.recipe import Recipe, Step
from twin.core_device.configuration import Configuration
from twin.core_device.deployment.deployer import Deployer, Resolver
from twin.core_device.deployment.document import DeploymentDocument, parse_document
from twin.core_device.device import CoreDevice, Machine
from twin.core_device.dialect import LITE, Dialect
from twin.core_device.errors import DeploymentError
from twin.simulation.machine import SharedParts, SimulatedMachine
from twin.simulation.profile import read_profile
from twin.simulation.storage import Database

QUICK = Patience(stable_s=0.3, reset_s=5.0, restart_s=0.02, grace_s=1.0)


async def at_work(step: RunningStep) -> RunningStep:
    """Wait until a script has come to rest or to its end: a shell may need longer to begin than a step to be well."""
    if not isinstance(step, ComponentProcess):
        return step
    try:
        while (status := psutil.Process(step.pid).status()) not in (psutil.STATUS_SLEEPING, psutil.STATUS_ZOMBIE):
            await asyncio.sleep(0.005)
    except psutil.NoSuchProcess:
        status = psutil.STATUS_ZOMBIE
    if status == psutil.STATUS_ZOMBIE:
        await step._process.wait()
    return step


class OfflineCloud:
    """Recipes, S3 objects and groups, in memory."""

    def __init__(self) -> None:
        self.recipes: dict[tuple[str, str], dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.answers: list[tuple[int, str]] = []  # given before the object is
        self.renewals: list[bool] = []  # of each request for credentials, whether it asks for new ones
        self.requested: list[str] = []
        self.resolved: list[str] = []
        self.groups = {"g", "other"}
        self._client = httpx.AsyncClient(transport=httpx.MockTransport(self._answer))

    def add(self, name: str, version: str = "1.0.0", **parts: Any) -> None:
        """Add a component version; parts are its `steps`, `artifacts`, `defaults`, `dependencies` and so on."""
        self.recipes[name, version] = {
            "ComponentName": name,
            "ComponentVersion": version,
            "ComponentDescription": parts.get("description", ""),
            "ComponentConfiguration": {"DefaultConfiguration": parts.get("defaults", {})},
            "ComponentDependencies": parts.get("dependencies", {}),
            "Manifests": [
                {
                    "Platform": parts.get("platform", {"os": "linux", "runtime": "*"}),
                    "Lifecycle": parts.get("steps", {}),
                    "Artifacts": parts.get("artifacts", []),
                }
            ],
        }

    def add_zip(self, key: str, entries: Mapping[str, str]) -> dict[str, Any]:
        """Store an archive; returns its entry for a recipe."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
        url = f"https://bucket.s3.us-east-1.amazonaws.com/{key}"
        self.objects[url] = stream.getvalue()
        digest = base64.b64encode(hashlib.sha256(stream.getvalue()).digest()).decode()
        return {"Uri": f"s3://bucket/{key}", "Unarchive": "ZIP", "Digest": digest, "Algorithm": "SHA-256"}

    def client(self, *, identified: bool) -> httpx.AsyncClient:
        return self._client

    async def credentials(self, *, renew: bool = False) -> Credentials:
        self.renewals.append(renew)
        return Credentials("A" * 20, "secret", "session", datetime.now(UTC) + timedelta(hours=1))

    async def thing_groups(self) -> set[str]:
        return self.groups

    async def resolve(self, name: str, requirements: Mapping[str, str], platform: Mapping[str, str]) -> dict[str, Any]:
        self.resolved.append(name)
        for (known, version), recipe in sorted(self.recipes.items(), reverse=True):
            if known == name and all(satisfies(version, text) for text in requirements.values()):
                return {**recipe, "arn": f"arn:{name}:{version}"}
        raise DeploymentError(f"no version of {name} satisfies {dict(requirements)}")

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requested.append(str(request.url))
        if self.answers:
            status, text = self.answers.pop(0)
            return httpx.Response(status, text=text)
        content = self.objects.get(str(request.url))
        tag = f'"{hashlib.md5(content).hexdigest()}"' if content is not None else ""  # noqa: S324 - as S3 has it
        if tag and request.headers.get("if-none-match") == tag:
            return httpx.Response(304, headers={"etag": tag})
        return (
            httpx.Response(404, text="NoSuchKey")
            if content is None
            else httpx.Response(200, content=_stream(content), headers={"etag": tag})
        )


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


class Device:
    """What is left of a core device without its connections.

    Args:
        root: Its root folder.
        cloud: What answers it.
        dialect: Whose rules it keeps.
        models: A profile, for a simulated device; None for one with processes.
    """

    def __init__(
        self, root: Path, cloud: OfflineCloud, dialect: Dialect = LITE, models: dict[str, Any] | None = None
    ) -> None:
        configuration = cast(
            Configuration,
            SimpleNamespace(
                system=SimpleNamespace(thing_name="thing-1", root_ca_path=root / "ca.pem", root_path=root),
                nucleus=SimpleNamespace(region="us-east-1", proxy_url=None, dialect=dialect, component_user=None),
            ),
        )
        self.cloud, self.dialect = cloud, dialect
        self.machine = Machine(configuration) if models is None else _simulated(configuration, root, models)
        self.layout = layout = self.machine.layout
        self.store = ConfigurationStore(
            layout.configuration_file, ignores_case=dialect.ignores_case, documents=layout.documents
        )
        self.machine.services(cast(CoreDevice, self)) if models is not None else None
        self.supervisor = ComponentSupervisor(self._make, lambda _: None, binds_to=dialect.binds_to)
        data_plane = cast(DataPlane, cloud)
        self.artifacts = self.machine.artifacts(cast(CloudHttp, cloud), cast(TokenExchange, cloud), data_plane)
        self.deployer = Deployer(
            self.layout,
            "thing-1",
            Resolver(self.layout, data_plane, dialect),
            self.artifacts,
            self.store,
            self.supervisor,
            data_plane,
            dialect,
        )
        self.starts: Counter[tuple[str, str]] = Counter()
        components = self.supervisor.components
        self.environment = ComponentEnvironment(
            configuration,
            self.layout,
            root / "ipc.socket",
            "",
            Tokens(),
            self.store.get,
            lambda name: components[name].recipe.version if name in components else None,
        )

    @property
    def deploying(self) -> bool:
        """As of a core device."""
        return self.deployer.busy

    def work(self, component: str, name: str) -> str:
        """The text of a file in a component's working directory, empty when there is none."""
        path = self.layout.work(component) / name
        return path.read_text() if path.exists() else ""

    def _make(self, recipe: Recipe) -> Component:
        def prepare(step: Step) -> tuple[str, Mapping[str, str]]:
            return self.environment.prepare(recipe, step)

        spawn, output = self.machine.components(recipe)

        async def counted(step: Step, script: str, environment: Mapping[str, str]) -> RunningStep:
            self.starts[recipe.name, step.name] += 1
            return await at_work(await spawn(step, script, environment))

        return Component(
            recipe, prepare, counted, output, self.supervisor.component_changed, QUICK, dialect=self.dialect
        )


def _simulated(configuration: Configuration, root: Path, models: dict[str, Any]) -> SimulatedMachine:
    fleet = SharedParts(read_profile(models), root, Database(root / "documents.db"))
    return SimulatedMachine(configuration, fleet, ssl.create_default_context)


def deployment(components: Mapping[str, Any], group: str = "g", created: int = 1, **changes: Any) -> DeploymentDocument:
    """A deployment of versions, or of whole entries, by component name."""
    arn = f"arn:aws:greengrass:us-east-1:000000000000:configuration:thinggroup/{group}:{created}"
    entries = {name: {"version": entry} if isinstance(entry, str) else entry for name, entry in components.items()}
    document = {"deploymentId": f"d{created}", "configurationArn": arn, "creationTimestamp": created}
    return parse_document({**document, "components": entries, **changes})
