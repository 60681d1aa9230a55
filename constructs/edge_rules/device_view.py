"""What comes together on a device: the deployments to all of its groups, and all that they bring."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import DEPLOYMENT, components_of, recipes
from nucleus_lite.deployment import NUCLEI, configuration_arn

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
