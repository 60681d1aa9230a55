"""A stage's cloud assembly: how it is made, and what it would bring to devices."""

import json
import os
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.places import PROJECT
from edge_handlers.custom_resource import Properties
from edge_handlers.deployment_health import HealthCheck
from edge_handlers.device_list import CLIENTS
from edge_handlers.device_registry import Registry
from edge_handlers.model_package import ModelPackage
from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import DEPLOYMENT, Recipe, components_of, on_lite, recipes

ROOT = PROJECT
LIMIT_S = 300
REGISTRY = Registry.TYPE
_CONTENT = ModelPackage.key("content")
#: From a component's artifact to the file it is made of: parameter, package, compilation, copy.
_HOPS = 5


class AssemblyError(Exception):
    """An assembly cannot be made or read; the text says what to do."""


@dataclass(frozen=True)
class Component:
    """One component version.

    Attributes:
        name: The component.
        version: Its version.
        content: Its recipe without the version, and the digests of its artifacts: equal content, equal component.
        artifact_bytes: Size of its artifacts as far as the assembly holds them or what they are compiled from.
        disk_bytes: What they take on a device, where a zip stays beside what it is unpacked to.
        depends_hard: Components whose restart restarts this one.
    """

    name: str
    version: str
    content: str = field(repr=False)
    artifact_bytes: int = 0
    disk_bytes: int = 0
    depends_hard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What one thing group or thing is told to run.

    Attributes:
        name: The group's or thing's name.
        components: Component to version.
        configuration: Component to the JSON that is merged into its configuration.
        rollout: Everything else that the deployment says: rate, abort criteria, policies.
        stack: The stack of its deployment, as the assembly names it.
        devices: How many devices the registry puts into it; None if no registry has it among its rings.
        on_device: All components of a device that it reaches, those of the device's other groups and dependencies
            included; empty where nucleus lite runs none of them.
        gate: What the deploy waits for before it goes on, without what only a deploy knows; None: it does not wait.
    """

    name: str
    components: Mapping[str, str]
    configuration: Mapping[str, str]
    rollout: Mapping[str, Any]
    stack: str = ""
    devices: int | None = None
    on_device: frozenset[str] = frozenset()
    gate: HealthCheck | None = None


@dataclass(frozen=True, order=True)
class Stack:
    """Where a stack is deployed: another name or region is another stack.

    Attributes:
        name: CloudFormation's name of it.
        region: Its region; empty if the assembly leaves it to the deploy.
    """

    name: str
    region: str


@dataclass(frozen=True)
class Register:
    """The devices of one registry resource, as its handler will read them.

    Attributes:
        stack: Its stack, as the assembly names it.
        rings: Ring to thing group.
        devices: Thing name to ring.
    """

    stack: str
    rings: Mapping[str, str]
    devices: Mapping[str, str]

    def counts(self) -> dict[str, int]:
        """Thing group to its number of core devices."""
        counts = Counter(self.devices.values())
        return {group: counts[ring] for ring, group in self.rings.items() if ring != CLIENTS}


@dataclass(frozen=True)
class Assembly:
    """The view of one cloud assembly that a plan compares.

    Attributes:
        view: Templates and assets.
        stacks: Stack, as the assembly names it, to where it is deployed.
        targets: Name to target.
        components: (name, version) to component.
        registers: Its lists of devices.
    """

    view: FleetView
    stacks: Mapping[str, Stack]
    targets: Mapping[str, Target]
    components: Mapping[tuple[str, str], Component]
    registers: tuple[Register, ...]

    def counts(self, given: Mapping[str, int]) -> dict[str, int]:
        """Count the devices of each thing group.

        Args:
            given: Target to its number of devices, where the registry does not say or is wrong.

        Raises:
            ValueError: It has deployments, but no registry, and nothing is given.
        """
        if self.targets and not self.registers and not given:
            raise ValueError(
                f"the devices of {', '.join(sorted(self.targets))} must be listed by a {REGISTRY}, the templates have "
                "none: give --devices TARGET=N"
            )
        return {group: count for each in self.registers for group, count in each.counts().items()} | dict(given)

    @property
    def client_devices(self) -> int:
        """How many devices around the cores it registers."""
        return sum(len(each.devices) for each in self.registers if CLIENTS in each.rings)

    def only(self, stacks: Collection[str]) -> "Assembly":
        """Leave out all but some stacks."""
        view = FleetView({name: each for name, each in self.view.templates.items() if name in stacks}, self.view.assets)
        return _assembly(view, {name: each for name, each in self.stacks.items() if name in stacks})


#: What there is of a stage that was never deployed.
NOTHING = Assembly(FleetView({}), {}, {}, {}, ())


def given_devices(given: Sequence[str], targets: Collection[str]) -> dict[str, int]:
    """Read what a command line says of the numbers of devices.

    Args:
        given: `TARGET=N` each.
        targets: The targets that there are.

    Raises:
        AssemblyError: One has another form, or names no target.
    """
    counts = {}
    for each in given:
        name, _, count = each.rpartition("=")
        if not re.fullmatch(r"[0-9]{1,9}", count) or not name:
            raise AssemblyError(f"--devices must be TARGET=NUMBER, got {each!r}")
        if name not in targets:
            raise AssemblyError(f"--devices must name one of {', '.join(sorted(targets)) or 'no target'}, got {name!r}")
        counts[name] = int(count)
    return counts


def synth(app: Path, stage: str, out: Path, *, which: str = "the working tree") -> Path:
    """Synthesise a stage of a checkout.

    Args:
        app: The checkout.
        stage: The stage.
        out: Becomes the assembly.
        which: What an error calls the checkout.

    Raises:
        AssemblyError: The app failed; its own message is part of the text.
    """
    environment = {**os.environ, "CDK_OUTDIR": str(out), "CDK_CONTEXT_JSON": json.dumps({"stage": stage})}
    command = [sys.executable, "app.py"]
    try:
        done = subprocess.run(
            command, cwd=app, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise AssemblyError(f"{which} must be synthesised for {stage} within {LIMIT_S} s: try again") from exc
    if done.returncode:
        raise AssemblyError(f"{which} cannot be synthesised for {stage}:\n{done.stderr.strip()}")
    return out


def read_assembly(folder: Path) -> Assembly:
    """Read a cloud assembly.

    Args:
        folder: A `cdk.out`.

    Raises:
        AssemblyError: It holds no templates, a file in it is damaged, or its list of devices cannot be read.
    """
    if not folder.is_dir():
        raise AssemblyError("must be a cloud assembly, got no folder")
    paths = sorted(folder.glob("*.template.json"))
    if not paths:
        raise AssemblyError("must be a cloud assembly, got a folder without *.template.json")
    manifest = folder / "manifest.json"
    for path in (*paths, *folder.glob("*.assets.json"), manifest):
        try:
            content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError as exc:
            raise AssemblyError(f"{path.name} must be JSON: {exc}: synthesise the stage again") from exc
        if not isinstance(content, dict):
            raise AssemblyError(f"{path.name} must be a JSON object, got {type(content).__name__}")
    view = FleetView.read(paths)
    artifacts = content.get("artifacts") or {}
    return _assembly(view, {name: _stack(name, artifacts.get(name) or {}) for name in view.templates})


def read_named(folder: Path, which: str) -> Assembly:
    """Read a cloud assembly; an error begins with what it is called."""
    try:
        return read_assembly(folder)
    except (AssemblyError, ValueError) as exc:
        raise AssemblyError(f"{which}: {exc}") from exc


def _assembly(view: FleetView, stacks: Mapping[str, Stack]) -> Assembly:
    registers = tuple(_register(each) for each in view.of_type(REGISTRY))
    counts = {group: count for each in registers for group, count in each.counts().items()}
    components = {(each.name, each.version): each for each in (_component(recipe) for recipe in recipes(view))}
    together = _together(view)
    targets = {each.name: each for each in (_target(found, counts, together) for found in view.of_type(DEPLOYMENT))}
    return Assembly(view, stacks, targets, components, registers)


def _stack(name: str, artifact: Mapping[str, Any]) -> Stack:
    region = str(artifact.get("environment", "")).rsplit("/", 1)[-1]
    properties = artifact.get("properties") or {}
    return Stack(str(properties.get("stackName", name)), "" if region == "unknown-region" else region)


def _register(resource: Resource) -> Register:
    """Read a list of devices as its handler does; whatever is wrong with it is no empty list."""
    where = f"{resource.stack}/{resource.logical_id}"
    values = {name: resource.text(value) for name, value in resource.properties.items()}
    try:
        registry = Registry.of(Properties(values, where))
        file = resource.fleet.asset(registry.listing.object_key)
        if file is None or not file.is_file():
            raise ValueError(f"{where}.ListKey must be an asset of the assembly, got {registry.listing.object_key}")
        return Register(resource.stack, registry.rings, registry.checked(registry.listing.parse(file.read_bytes())))
    except ValueError as exc:
        raise AssemblyError(f"the list of devices cannot be read: {exc}") from exc


def _together(view: FleetView) -> dict[str, frozenset[str]]:
    """Target to what a device that it reaches has in all, at most."""
    found: dict[str, frozenset[str]] = {}
    for device in on_lite(view):
        for deployment in device.deployments:
            name = target_name(deployment)
            found[name] = max(found.get(name, frozenset()), frozenset(device.wanted), key=len)
    return found


def _component(recipe: Recipe) -> Component:
    view = recipe.resource.fleet
    uris = [str(artifact.get("Uri", "")) for _, artifact in recipe.artifacts()]
    files = [file for file in (artifact_file(view, uri) for uri in uris) if file]
    size = sum(file.stat().st_size for file in files if file.is_file())
    text = recipe.text.replace(recipe.version, "<version>")
    for uri in uris:
        text = text.replace(uri, _origin(view, uri))
    dependencies = recipe.body.get("ComponentDependencies") or {}
    return Component(
        name=recipe.name,
        version=recipe.version,
        content=text,
        artifact_bytes=size,
        disk_bytes=size + sum(_unpacked_bytes(file) for file in files),
        depends_hard=tuple(name for name, each in dependencies.items() if each.get("DependencyType") != "SOFT"),
    )


def _unpacked_bytes(file: Path) -> int:
    if not zipfile.is_zipfile(file):
        return 0
    with zipfile.ZipFile(file) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _origin(view: FleetView, uri: str) -> str:
    """Digest of the asset behind a location; the location itself if there is none."""
    file = artifact_file(view, uri, packed=False)
    return next((digest for digest, path in view.assets.items() if path == file), uri)


def artifact_file(view: FleetView, uri: str, *, packed: bool = True) -> Path | None:
    """Follow a location through parameters and custom resources to the asset that it comes from.

    Args:
        view: Templates and assets.
        uri: The location.
        packed: Also from a model's package, whose place is named by its content, to the model's source.
    """
    texts = [uri]
    for _ in range(_HOPS):
        following = []
        for text in texts:
            if found := view.asset(text):
                return found
            following += [resource.text(resource.properties) for resource in view.referenced(text)]
            following += _parameter_values(view, text)
            following += _package_sources(view, text) if packed else []
        texts = following
    return None


def _parameter_values(view: FleetView, text: str) -> list[str]:
    """Values that other stacks leave in SSM for the template parameters in a text."""
    found = []
    for stack, parameter in re.findall(r"<([^<>/ ]+)/([^<>. ]+)>", text):
        name = (view.templates.get(stack, {}).get("Parameters") or {}).get(parameter, {}).get("Default")
        found += [
            each.text(each.properties.get("Value"))
            for each in view.of_type("AWS::SSM::Parameter")
            if name and each.text(each.properties.get("Name", "")) == name
        ]
    return found


def _package_sources(view: FleetView, text: str) -> list[str]:
    packages = [each for each in view.of_type(ModelPackage.TYPE) if each.properties.get(_CONTENT) in text.split("/")]
    return [each.text(each.properties.get(ModelPackage.key("source_uri"), "")) for each in packages]


def _target(deployment: Resource, counts: Mapping[str, int], together: Mapping[str, frozenset[str]]) -> Target:
    properties = deployment.properties
    components = told_components(deployment)
    name = target_name(deployment)
    return Target(
        name=name,
        gate=_gate(deployment, name),
        components={each: deployment.text(wanted.get("ComponentVersion")) for each, wanted in components.items()},
        configuration={
            each: deployment.text((wanted.get("ConfigurationUpdate") or {}).get("Merge"))
            for each, wanted in components.items()
            if wanted.get("ConfigurationUpdate")
        },
        rollout={
            key: json.loads(json.dumps(properties[key]))
            for key in ("IotJobConfiguration", "DeploymentPolicies")
            if key in properties
        },
        stack=deployment.stack,
        devices=counts.get(name),
        on_device=together.get(name, frozenset()),
    )


def told_components(deployment: Resource) -> dict[str, Mapping[str, Any]]:
    """What a deployment names, by component.

    Args:
        deployment: Of what a condition chooses in it, the first choice counts that names something.

    Raises:
        AssemblyError: Only a deploy knows them, as those of a parameter.
    """
    written, chosen = deployment.properties.get("Components") or {}, components_of(deployment)
    found = chosen if _is_open(written) else {name: chosen.get(name, each) for name, each in written.items()}
    places = {"Components": written if _is_open(written) and not chosen else found}
    for place, value in {**places, **{f"Components.{name}": each for name, each in found.items()}}.items():
        if _is_open(value):
            where = f"{deployment.stack}/{deployment.logical_id}.{place}"
            raise AssemblyError(
                f"{where}: must be an object in the template, got {deployment.text(value)}: write it there"
            )
    return found


def _is_open(value: Any) -> bool:
    return not isinstance(value, Mapping) or any(key == "Ref" or key.startswith("Fn::") for key in value)


def _gate(deployment: Resource, name: str) -> HealthCheck | None:
    for each in deployment.fleet.of_type(HealthCheck.TYPE):
        if target_name(each, HealthCheck.key("group_arn")) == name:
            values = {key: each.text(value) for key, value in each.properties.items()}
            fields = ("healthy_percentage", "timeout_s", "away_s", "present_percentage")
            keys = {name: HealthCheck.key(name) for name in fields}
            number: dict[str, Any] = {name: int(values[key]) for name, key in keys.items() if key in values}
            return HealthCheck("", "", values[HealthCheck.key("ring")], expected=(), **number)
    return None


def target_name(resource: Resource, key: str = "TargetArn") -> str:
    """Name of the group or thing that a property of a resource leads to.

    Args:
        resource: A deployment, or another resource.
        key: The property.
    """
    text = resource.text(resource.properties.get(key, ""))
    for group in resource.fleet.referenced(text):
        for named in ("ThingGroupName", "ThingName"):
            if named in group.properties:
                return group.text(group.properties[named])
    return text.rsplit("/", 1)[-1] if "<" not in text.rsplit("/", 1)[-1] else text
