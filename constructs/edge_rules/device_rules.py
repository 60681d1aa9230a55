"""Rules on what comes together on one device: its limits, and names that the classic nucleus does not tell apart."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import DEPLOYMENT, PLACE, Device, components_of, devices, on_lite, recipes, target_of
from edge_rules.rule import Finding, rule
from nucleus_lite import deployment as lite_deployment
from nucleus_lite import recipe as lite_recipe

#: One is left for a component that an update takes away, which still counts then.
COMPONENTS: int = lite_deployment.COMPONENTS.value - 1
_WHERE = "Properties/Components"


def is_thing(deployment: Resource) -> bool:
    """Whether a deployment is to a thing and not to a group."""
    target = target_of(deployment)
    return ":thing/" in target or any(found.type == "AWS::IoT::Thing" for found in deployment.fleet.referenced(target))


@rule(
    "DeploymentComponents",
    "a device must have at most 18 components over all its groups where nucleus lite may run, dependencies such as "
    "TokenExchangeService counted",
    reason="with more than 19, one just removed included, nucleus lite's fleet status is dropped in silence",
    fix="put what belongs together into one component, split the devices into stages, or, where none has nucleus lite, "
    'write "runtime": "aws_nucleus_classic" (here: fleet.nucleus = "classic")',
    fact=lite_deployment.COMPONENTS,
)
def devices_have_few_components(fleet: FleetView) -> Iterator[Finding]:
    for device in on_lite(fleet):
        if (count := len(device.wanted)) > COMPONENTS:
            yield Finding(device.deployments[0], _WHERE, f"{count} components{_of_groups(device)}")


@rule(
    "DeviceStatus",
    "what a device says of its components must fit into 5,000 bytes, names, versions and groups added up",
    reason="nucleus lite drops a longer fleet status in silence: the cloud never hears how a deployment ended",
    fix="give components and groups shorter names, or put what belongs together into one component",
    fact=lite_deployment.STATUS_BYTES,
)
def statuses_fit(fleet: FleetView) -> Iterator[Finding]:
    for device in on_lite(fleet):
        size, limit = lite_deployment.status_bytes(device.status), lite_deployment.STATUS_BYTES.value
        # One finding is enough where there are too many of them.
        if size > limit and len(device.wanted) <= COMPONENTS:
            yield Finding(device.deployments[0], _WHERE, f"about {size} bytes{_of_groups(device)}")


@rule(
    "OneVersion",
    "a component must have one version over all groups of a device",
    reason="the deployment fails on the device, and nucleus lite says why in its journal only",
    fix="deploy the same version to both groups, or take the component out of one",
    fact=lite_deployment.ONE_VERSION,
)
def versions_agree(fleet: FleetView) -> Iterator[Finding]:
    for device in devices(fleet):
        versions: dict[str, dict[str, None]] = {}
        for deployment in device.deployments:
            for name, wanted in components_of(deployment).items():
                versions.setdefault(name, {})[deployment.text(wanted.get("ComponentVersion", ""))] = None
        for name, found in versions.items():
            if len(found) > 1:
                yield Finding(device.deployments[0], f"{_WHERE}/{name}", f"{' and '.join(found)}{_of_groups(device)}")


@rule(
    "GroupTarget",
    "a deployment must be to a thing group where nucleus lite may run",
    reason="there the next deployment to a group takes away what one to the thing has brought, and both report success",
    fix="make a thing group for the device, and deploy to it",
    fact=lite_deployment.GROUPS_ONLY,
)
def targets_are_groups(fleet: FleetView) -> Iterator[Finding]:
    own = {recipe.name for recipe in recipes(fleet) if recipe.on_lite}
    for deployment in fleet.of_type(DEPLOYMENT):
        if is_thing(deployment) and own & components_of(deployment).keys():
            yield Finding(deployment, "Properties/TargetArn", target_of(deployment))


@rule(
    "PreRelease",
    "a component must have no pre-release version where nucleus lite may run",
    reason="nucleus lite never removes one, even when no deployment wants it any more",
    fix="write three numbers, such as 1.0.0",
    fact=lite_deployment.PRE_RELEASE,
)
def versions_are_released(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        if recipe.on_lite and "-" in recipe.version.partition("+")[0]:
            yield Finding(recipe.resource, f"{PLACE}/ComponentVersion", recipe.version)


@rule(
    "BootstrapStep",
    "a lifecycle must have no bootstrap step where nucleus lite may run",
    reason="nucleus lite reboots the device for it, and the cloud never hears how the deployment ended",
    fix="prepare in install, and the machine itself when it is provisioned",
    fact=lite_recipe.BOOTSTRAP,
)
def nothing_reboots(fleet: FleetView) -> Iterator[Finding]:
    for recipe in recipes(fleet):
        for place, name, _ in recipe.steps():
            if recipe.on_lite and name.lower() == "bootstrap":
                yield Finding(recipe.resource, place, "a bootstrap step")


def places_left(fleet: FleetView) -> str:
    """Say how many components there is room for on the fullest device; empty where nucleus lite runs none.

    Args:
        fleet: The templates.
    """
    fullest = max(on_lite(fleet), key=lambda device: len(device.wanted), default=None)
    if fullest is None:
        return ""
    count = len(fullest.wanted)
    left = f"{COMPONENTS - count} place{'' if COMPONENTS - count == 1 else 's'} left"
    return f"{count} of {COMPONENTS} components on a device, which nucleus lite has room for: {left}"


def _of_groups(device: Device) -> str:
    names = [target_of(each) for each in device.deployments]
    return f" of {', '.join(names)}" if len(names) > 1 else ""


@rule(
    "LetterCase",
    "component names of a device, and keys of one object of a configuration, must differ in more than capital letters",
    reason="to the classic nucleus they are one: the second value replaces the first, a second component never runs",
    fix="spell them alike, or give one another name",
    source="observed",
)
def names_differ(fleet: FleetView) -> Iterator[Finding]:
    for device in devices(fleet):
        for pair in _alike(device.wanted):
            yield Finding(device.deployments[0], "Properties/Components", pair)
    defaults = {recipe.name: recipe.configuration for recipe in recipes(fleet)}
    for recipe in recipes(fleet):
        for path, pair in _keys_alike(recipe.configuration):
            yield Finding(recipe.resource, f"{PLACE}/ComponentConfiguration{path}", pair)
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in components_of(deployment).items():
            merge = _parsed(deployment.text((wanted.get("ConfigurationUpdate") or {}).get("Merge")))
            before = set(_keys_alike(defaults.get(name, {})))
            for path, pair in _keys_alike(defaults.get(name, {}), merge):
                if (path, pair) not in before:
                    yield Finding(deployment, f"Properties/Components/{name}/ConfigurationUpdate/Merge{path}", pair)


def _parsed(text: str) -> Mapping[str, Any]:
    """A merge that is known in the cloud only is passed over."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _keys_alike(*objects: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Where keys of objects that are merged differ in case only, and which."""
    keys = list(dict.fromkeys(key for each in objects for key in each))
    for pair in _alike(keys):
        yield path, pair
    for key in keys:
        below = [each[key] for each in objects if isinstance(each.get(key), Mapping)]
        yield from _keys_alike(*below, path=f"{path}/{key}")


def _alike(names: Iterable[str]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            yield f"{other} and {name}"
