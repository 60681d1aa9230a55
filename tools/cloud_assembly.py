"""A stage's cloud assembly: how it is made, and what it would bring to devices."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "constructs"))

from edge_rules.deployment_rules import DEPLOYMENT
from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import Recipe, recipes

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300
#: From a component's artifact to the file it is made of: parameter, package, compilation, copy.
_HOPS = 5


class AssemblyError(Exception):
    """An assembly cannot be made; the text says what to do."""


@dataclass(frozen=True)
class Component:
    """One component version.

    Attributes:
        name: The component.
        version: Its version.
        content: Its recipe without the version, and the digests of its artifacts: equal content, equal component.
        artifact_bytes: Size of its artifacts as far as the assembly holds them or what they are compiled from.
        depends_hard: Components whose restart restarts this one.
    """

    name: str
    version: str
    content: str = field(repr=False)
    artifact_bytes: int = 0
    depends_hard: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What one thing group or thing is told to run.

    Attributes:
        name: The group's or thing's name.
        components: Component to version.
        configuration: Component to the JSON that is merged into its configuration.
        rollout: Everything else that the deployment says: rate, abort criteria, policies.
        devices: How many devices the templates register for it; None if they do not say.
    """

    name: str
    components: Mapping[str, str]
    configuration: Mapping[str, str]
    rollout: Mapping[str, Any]
    devices: int | None = None


@dataclass(frozen=True)
class Assembly:
    """The view of one cloud assembly that a plan compares.

    Attributes:
        view: Templates and assets.
        targets: Name to target.
        components: (name, version) to component.
    """

    view: FleetView
    targets: Mapping[str, Target]
    components: Mapping[tuple[str, str], Component]


def synth(app: Path, stage: str, out: Path) -> Path:
    """Synthesise a stage of a checkout.

    Raises:
        AssemblyError: The app failed; its own message is part of the text.
    """
    environment = {**os.environ, "CDK_OUTDIR": str(out), "CDK_CONTEXT_JSON": json.dumps({"stage": stage})}
    command = [sys.executable, "app.py"]
    done = subprocess.run(
        command, cwd=app, env=environment, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        which = "the working tree" if app == ROOT else "the base"
        raise AssemblyError(f"{which} cannot be synthesised for {stage}:\n{done.stderr.strip()}")
    return out


def read_assembly(folder: Path) -> Assembly:
    """Read a cloud assembly.

    Args:
        folder: A `cdk.out`.

    Raises:
        FileNotFoundError: It holds no templates.
    """
    paths = sorted(folder.glob("*.template.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} must be a cloud assembly: it has no *.template.json")
    view = FleetView.read(paths)
    components = {(each.name, each.version): each for each in (_component(recipe) for recipe in recipes(view))}
    targets = {each.name: each for each in (_target(found) for found in view.of_type(DEPLOYMENT))}
    return Assembly(view, targets, components)


def _component(recipe: Recipe) -> Component:
    view = recipe.resource.fleet
    uris = [str(artifact.get("Uri", "")) for _, artifact in recipe.artifacts()]
    files = [file for file in (artifact_file(view, uri) for uri in uris) if file]
    text = recipe.text.replace(recipe.version, "<version>")
    for uri in uris:
        text = text.replace(uri, _origin(view, uri))
    dependencies = recipe.body.get("ComponentDependencies") or {}
    return Component(
        name=recipe.name,
        version=recipe.version,
        content=text,
        artifact_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        depends_hard=tuple(name for name, each in dependencies.items() if each.get("DependencyType") != "SOFT"),
    )


def _origin(view: FleetView, uri: str) -> str:
    """Digest of the asset behind a location; the location itself if there is none."""
    file = artifact_file(view, uri)
    return next((digest for digest, path in view.assets.items() if path == file), uri)


def artifact_file(view: FleetView, uri: str) -> Path | None:
    """Follow a location through parameters and custom resources to the asset that it comes from."""
    texts = [uri]
    for _ in range(_HOPS):
        following = []
        for text in texts:
            if found := view.asset(text):
                return found
            following += [resource.text(resource.properties) for resource in view.referenced(text)]
            following += _parameter_values(view, text)
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


def _target(deployment: Resource) -> Target:
    properties = deployment.properties
    components = properties.get("Components") or {}
    name = _target_name(deployment)
    return Target(
        name=name,
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
        devices=_registered(deployment.fleet, name),
    )


def _target_name(deployment: Resource) -> str:
    text = deployment.text(deployment.properties.get("TargetArn", ""))
    for group in deployment.fleet.referenced(text):
        for key in ("ThingGroupName", "ThingName"):
            if key in group.properties:
                return group.text(group.properties[key])
    return text.rsplit("/", 1)[-1] if "<" not in text.rsplit("/", 1)[-1] else text


def _registered(view: FleetView, group: str) -> int | None:
    """Devices that a registry resource puts into the group."""
    counts = [
        len(resource.properties["Devices"])
        for resource in view.resources
        if isinstance(resource.properties.get("Devices"), list)
        and group in (resource.text(resource.properties.get(key)) for key in ("ThingGroupName", "ThingGroup"))
    ]
    return sum(counts) if counts else None
