"""Greengrass recipes as the rules see them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from edge_rules.fleet_view import FleetView, Resource

DEPLOYMENT = "AWS::GreengrassV2::Deployment"
COMPONENT = "AWS::GreengrassV2::ComponentVersion"
#: A custom resource that takes a version over where it is there already, and keeps it when it is replaced.
KEPT_COMPONENT = "Custom::ComponentVersion"
PLACE = "Properties/InlineRecipe"


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

    @property
    def manifests(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Location and content of each manifest."""
        return [(f"{PLACE}/Manifests/{place}", found) for place, found in enumerate(self.body.get("Manifests") or [])]

    @property
    def on_lite(self) -> bool:
        """Whether nucleus lite may run it: a manifest that names another runtime, or none, is passed over there."""
        platforms = [manifest.get("Platform") or {} for _, manifest in self.manifests]
        return any(str(platform.get("runtime", "classic")) in ("*", "aws_nucleus_lite") for platform in platforms)

    def steps(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """Location, name and content of every lifecycle step but `setenv`; a bare script counts as `Script`."""
        for place, manifest in self.manifests:
            for name, step in (manifest.get("Lifecycle") or {}).items():
                if name.lower() != "setenv":
                    yield f"{place}/Lifecycle/{name}", name, step if isinstance(step, dict) else {"Script": str(step)}

    def scripts(self) -> Iterator[tuple[str, str]]:
        """Location and text of every script."""
        return ((place, str(step["Script"])) for place, _, step in self.steps() if "Script" in step)

    def artifacts(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Location and content of every artifact."""
        for place, manifest in self.manifests:
            for number, artifact in enumerate(manifest.get("Artifacts") or []):
                yield f"{place}/Artifacts/{number}", artifact

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


def merges_on_lite(fleet: FleetView) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    """What deployments merge into the configurations of the app's own components that nucleus lite may run.

    Returns:
        Deployment, location and configuration of each; one that is known in the cloud only is left out.
    """
    own = {recipe.name for recipe in recipes(fleet) if recipe.on_lite}
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in components_of(deployment).items():
            merge = (wanted.get("ConfigurationUpdate") or {}).get("Merge")
            if name in own and merge:
                try:
                    configuration = json.loads(deployment.text(merge))
                except json.JSONDecodeError:
                    continue
                if isinstance(configuration, dict):
                    yield deployment, f"Properties/Components/{name}/ConfigurationUpdate/Merge", configuration


def recipes(fleet: FleetView) -> Iterator[Recipe]:
    """The recipes of all component versions that are defined inline."""
    for resource in fleet.of_type(COMPONENT, KEPT_COMPONENT):
        if "InlineRecipe" in resource.properties:
            yield Recipe(resource, resource.text(resource.properties["InlineRecipe"]))
