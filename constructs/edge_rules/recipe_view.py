"""Greengrass recipes and deployments as the rules see them, and what comes together on a device of several groups."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from edge_rules.fleet_view import FleetView, Resource
from nucleus_lite.deployment import NUCLEI, configuration_arn

DEPLOYMENT = "AWS::GreengrassV2::Deployment"
COMPONENT = "AWS::GreengrassV2::ComponentVersion"
#: A custom resource that takes a version over where it is there already, and keeps it when it is replaced.
KEPT_COMPONENT = "Custom::ComponentVersion"
PLACE = "Properties/InlineRecipe"
Part = TypeVar("Part")


@dataclass(frozen=True)
class Recipe:
    """The inline recipe of one component version.

    Attributes:
        resource: The component version.
        text: The recipe as written; what CloudFormation fills in stands in angle brackets.
    """

    resource: Resource
    text: str = field(repr=False)

    @cached_property
    def document(self) -> Mapping[str, Any] | None:
        """The parsed recipe, None if it is not a JSON object."""
        try:
            document = json.loads(self.text)
        except json.JSONDecodeError:
            return None
        return document if isinstance(document, dict) else None

    @property
    def body(self) -> Mapping[str, Any]:
        """The parsed recipe, empty if it is not a JSON object (a rule of its own says so)."""
        return self.document or {}

    @property
    def name(self) -> str:
        """The component's name."""
        return str(self.body.get("ComponentName", ""))

    @property
    def version(self) -> str:
        """The component's version."""
        return str(self.body.get("ComponentVersion", ""))

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The default configuration, access control included."""
        return (self.body.get("ComponentConfiguration") or {}).get("DefaultConfiguration") or {}

    def manifests(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Location and content of each manifest."""
        return [(f"{PLACE}/Manifests/{place}", found) for place, found in enumerate(self.body.get("Manifests") or [])]

    @property
    def on_lite(self) -> bool:
        """Whether nucleus lite may run it: a manifest that names another runtime, or none, is passed over there."""
        platforms = [manifest.get("Platform") or {} for _, manifest in self.manifests()]
        return any(str(platform.get("runtime", "classic")) in ("*", "aws_nucleus_lite") for platform in platforms)

    def steps(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Location, name and content of every lifecycle step but `setenv`; a bare script counts as `Script`."""
        for place, manifest in self.manifests():
            for name, step in (manifest.get("Lifecycle") or {}).items():
                if name.lower() != "setenv":
                    yield f"{place}/Lifecycle/{name}", name, step if isinstance(step, dict) else {"Script": str(step)}

    def scripts(self) -> Iterator[tuple[str, str]]:
        """Location and text of every script."""
        return ((place, str(step["Script"])) for place, _, step in self.steps() if "Script" in step)

    def artifacts(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Location and content of every artifact."""
        for place, manifest in self.manifests():
            for number, artifact in enumerate(manifest.get("Artifacts") or []):
                yield f"{place}/Artifacts/{number}", artifact

    def files(self) -> Iterator[tuple[str, Path]]:
        """Location and file, or folder, of every artifact that is an asset of the app."""
        for place, artifact in self.artifacts():
            if file := self.resource.fleet.asset(str(artifact.get("Uri", ""))):
                yield place, file

    def archives(self) -> Iterator[tuple[str, Path]]:
        """Those files that are a zip."""
        return ((place, file) for place, file in self.files() if file.suffix == ".zip" and file.is_file())

    def access(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Location, service and content of every access control policy."""
        for service, policies in (self.configuration.get("accessControl") or {}).items():
            for name, policy in policies.items():
                yield f"{PLACE}/accessControl/{name}", service, policy


def components_of(deployment: Resource) -> dict[str, Mapping[str, Any]]:
    """What a deployment names, by component; of what a condition chooses, the first choice that names something."""
    entries = {name: _chosen(each) for name, each in _chosen(deployment.properties.get("Components")).items()}
    return {name: each for name, each in entries.items() if each}


def _chosen(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or "Ref" in value:
        return {}
    choices = value.get("Fn::If")
    if isinstance(choices, list):
        return next(filter(None, map(_chosen, choices[1:])), {})
    return value


def merge_of(deployment: Resource, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What an entry of a deployment merges into its component; None where only the cloud knows it."""
    text = deployment.text((wanted.get("ConfigurationUpdate") or {}).get("Merge"))
    try:
        merge = json.loads(text or "{}")
    except json.JSONDecodeError:
        return None
    return merge if isinstance(merge, Mapping) else {}


def merges_on_lite(fleet: FleetView) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    """What deployments merge into the configurations of the app's own components that nucleus lite may run.

    Returns:
        Deployment, location and configuration of each; one that is known in the cloud only is left out.
    """
    own = {recipe.name for recipe in recipes(fleet) if recipe.on_lite}
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in components_of(deployment).items():
            if name in own and (configuration := merge_of(deployment, wanted)):
                yield deployment, f"Properties/Components/{name}/ConfigurationUpdate/Merge", configuration


def recipes(fleet: FleetView) -> Iterator[Recipe]:
    """The recipes of all component versions that are defined inline."""
    for resource in fleet.of_type(COMPONENT, KEPT_COMPONENT):
        if "InlineRecipe" in resource.properties:
            yield Recipe(resource, resource.text(resource.properties["InlineRecipe"]))


def parts_of(fleet: FleetView, parts: Callable[[Recipe], Iterable[Part]]) -> Iterator[tuple[Recipe, Part]]:
    """Such parts of all recipes, each with its recipe; `parts` is a method of `Recipe`."""
    return ((recipe, part) for recipe in recipes(fleet) for part in parts(recipe))


THING_GROUP = "AWS::IoT::ThingGroup"
TEMPLATE = "AWS::IoT::ProvisioningTemplate"
#: As long as a name that CloudFormation makes.
_ANY_NAME = "x" * 40


def target_of(deployment: Resource) -> str:
    """The ARN of a deployment's target, as text."""
    return deployment.text(deployment.properties.get("TargetArn", ""))


@dataclass(frozen=True)
class Device:
    """What a device is told to run that is in some groups at once; the app may have thousands of its kind, or none.

    Attributes:
        deployments: Those to its groups.
    """

    deployments: tuple[Resource, ...]

    @cached_property
    def wanted(self) -> Mapping[str, Mapping[str, str]]:
        """Component to the version that each target wants, those that nobody names but others depend on included."""
        known = {recipe.name: recipe for recipe in recipes(self.deployments[0].fleet)}
        found: dict[str, dict[str, str]] = {}
        for deployment in self.deployments:
            target, named = target_of(deployment), components_of(deployment)
            versions = {name: deployment.text(entry.get("ComponentVersion", "")) for name, entry in named.items()}
            names = list(versions)
            while names:
                if (name := names.pop()) in NUCLEI or target in found.get(name, {}):
                    continue
                recipe = known.get(name)
                found.setdefault(name, {})[target] = versions.get(name, recipe.version if recipe else "")
                names += (recipe.body.get("ComponentDependencies") or {}) if recipe else ()
        return found

    @property
    def status(self) -> dict[str, tuple[str, list[str]]]:
        """Component to its version and the ARNs in its fleet status, as `status_bytes` takes it."""
        fleet = self.deployments[0].fleet
        names = {target: _group(fleet, target) for each in self.deployments for target in [target_of(each)]}
        arns = {target: configuration_arn(_ANY_NAME if "<" in name else name) for target, name in names.items()}
        return {
            name: (max(targets.values(), key=len), [arns[target] for target in targets])
            for name, targets in self.wanted.items()
        }


def devices(fleet: FleetView) -> list[Device]:
    """Find which deployments meet on one device.

    A device that is in a group is also in the groups above it, and a provisioning template may put it into several.
    What is known of one in the cloud only is not seen: a membership that somebody gives by hand, another app's groups.

    Args:
        fleet: The templates.

    Returns:
        One for each set of deployments that is no part of another one.
    """
    parents = dict(_parents(fleet))
    by_group: dict[str, list[Resource]] = {}
    for deployment in fleet.of_type(DEPLOYMENT):
        by_group.setdefault(_group(fleet, target_of(deployment)), []).append(deployment)
    found: list[tuple[Resource, ...]] = []
    for groups in ([group] for group in by_group), _provisioned(fleet):
        for names in groups:
            above = _with_ancestors(names, parents)
            found.append(tuple(each for group in above for each in by_group.get(group, ())))
    largest = sorted({frozenset(map(id, each)): each for each in found if each}.values(), key=len, reverse=True)
    kept: list[tuple[Resource, ...]] = []
    for each in largest:
        if not any(set(map(id, each)) < set(map(id, other)) for other in kept):
            kept.append(each)
    return [Device(each) for each in kept]


def on_lite(fleet: FleetView) -> list[Device]:
    """Those devices on which nucleus lite may run a component of the app."""
    own = {recipe.name for recipe in recipes(fleet) if recipe.on_lite}
    return [device for device in devices(fleet) if own & device.wanted.keys()]


def _group(fleet: FleetView, text: str) -> str:
    """One name of a group, however a template speaks of it."""
    for resource in fleet.referenced(text):
        if resource.type == THING_GROUP:
            name = resource.text(resource.properties.get("ThingGroupName", ""))
            return name or f"<{resource.stack}/{resource.logical_id}>"
    return text.rpartition("thinggroup/")[2]


def _parents(fleet: FleetView) -> Iterator[tuple[str, str]]:
    for group in fleet.of_type(THING_GROUP):
        if "ParentGroupName" in group.properties:
            own = _group(fleet, f"<{group.stack}/{group.logical_id}>")
            yield own, _group(fleet, group.text(group.properties["ParentGroupName"]))


def _with_ancestors(groups: list[str], parents: Mapping[str, str]) -> list[str]:
    found: dict[str, None] = {}
    for group in groups:
        at: str | None = group
        while at and at not in found:
            found[at] = None
            at = parents.get(at)
    return list(found)


def _provisioned(fleet: FleetView) -> Iterator[list[str]]:
    """The groups that provisioning templates put a device into; those that a parameter names are left out."""
    for template in fleet.of_type(TEMPLATE):
        try:
            body: Any = json.loads(template.text(template.properties.get("TemplateBody", "")))
        except json.JSONDecodeError:
            continue
        for resource in (body.get("Resources") or {}).values():
            groups = (resource.get("Properties") or {}).get("ThingGroups") or []
            yield [_group(fleet, group) for group in groups if isinstance(group, str)]
