"""Rules on deployments, on the component versions that they name, and on what meets on one device."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from edge_rules.fleet_view import Finding, FleetView, Resource, rule
from edge_rules.recipe_view import (
    COMPONENT,
    DEPLOYMENT,
    PLACE,
    Device,
    Recipe,
    components_of,
    devices,
    merge_of,
    on_lite,
    parts_of,
    recipes,
    target_of,
)
from nucleus_lite import deployment as lite_deployment
from nucleus_lite import recipe as lite_recipe

THING_BYTES = 7 * 1024
GROUP_BYTES = 31 * 1024
DEVICES_PER_MINUTE = 1000
_EXACT = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")


def _documents_on_lite(fleet: FleetView) -> Iterator[tuple[Resource, dict[str, Any]]]:
    """The job documents of deployments with a component of the app that nucleus lite may run, as devices get them."""
    own = {recipe.name for recipe in recipes(fleet) if recipe.on_lite}
    for deployment in fleet.of_type(DEPLOYMENT):
        components = components_of(deployment)
        if own & components.keys():
            entries = {name: _entry(deployment, wanted) for name, wanted in components.items()}
            name = deployment.text(deployment.properties.get("DeploymentName"))
            yield deployment, lite_deployment.job_document(name, target_of(deployment), entries)


def _entry(deployment: Resource, wanted: Mapping[str, Any]) -> dict[str, Any]:
    update = wanted.get("ConfigurationUpdate") or {}
    entry: dict[str, Any] = {"version": deployment.text(wanted.get("ComponentVersion", ""))}
    if update.get("Merge"):
        text = deployment.text(update["Merge"])
        try:
            merge = json.loads(text)
        except json.JSONDecodeError:
            merge = text
        entry["configurationUpdate"] = {"merge": merge}
    if update.get("Reset"):
        entry.setdefault("configurationUpdate", {})["reset"] = update["Reset"]
    return entry


@rule(
    "DeploymentSize",
    "a deployment document must fit into 7 KiB for a thing and 31 KiB for a thing group",
    reason="devices without greengrass:GetDeploymentConfiguration try a larger one again for ever",
    fix="move configuration into components",
)
def deployments_fit(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        size = len(json.dumps(deployment.properties).encode())
        limit = THING_BYTES if is_thing(deployment) else GROUP_BYTES
        if size > limit:
            yield Finding(deployment, "Properties/Components", f"{size} bytes, at most {limit}")


@rule(
    "DeploymentPacket",
    "the deployment document must fit into an MQTT packet of 5,000 bytes, everything that it merges added up",
    reason="a longer one drops nucleus lite's link, and does so again at every reconnect until it is cancelled",
    fix="merge less, or move settings into the recipe or an artifact",
    fact=lite_deployment.PACKET_BYTES,
)
def documents_fit_into_a_packet(fleet: FleetView) -> Iterator[Finding]:
    for deployment, document in _documents_on_lite(fleet):
        size, limit = lite_deployment.packet_bytes(document), lite_deployment.PACKET_BYTES.value
        if size > limit:
            yield Finding(deployment, "Properties/Components", f"about {size} bytes, at most {limit}")


@rule(
    "DeploymentKeys",
    "a deployment document must have at most 255 keys",
    reason="nucleus lite reads no object with more, and the deployment fails",
    fix="merge less, or move settings into the recipe or an artifact",
    fact=lite_deployment.KEYS,
)
def documents_have_few_keys(fleet: FleetView) -> Iterator[Finding]:
    for deployment, document in _documents_on_lite(fleet):
        if (count := lite_deployment.keys(document)) > lite_deployment.KEYS.value:
            yield Finding(deployment, "Properties/Components", f"{count} keys")


@rule(
    "AbortCriteria",
    "a deployment to a group must say when it is aborted",
    reason="a faulty version reaches the whole fleet",
    fix="set IotJobConfiguration.AbortConfig with FAILED and TIMED_OUT",
)
def deployments_abort(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        job = deployment.properties.get("IotJobConfiguration") or {}
        criteria = (job.get("AbortConfig") or {}).get("CriteriaList") or []
        kinds = {str(each.get("FailureType")) for each in criteria if each.get("Action") == "CANCEL"}
        if not is_thing(deployment) and not ("ALL" in kinds or {"FAILED", "TIMED_OUT"} <= kinds):
            yield Finding(deployment, "Properties/IotJobConfiguration/AbortConfig", ", ".join(sorted(kinds)) or "none")


@rule(
    "Rollback",
    "a deployment must roll back where it fails",
    reason="a device of the classic nucleus stays with half of an update; nucleus lite never goes back by itself",
    fix='set DeploymentPolicies.FailureHandlingPolicy to "ROLLBACK"',
)
def deployments_roll_back(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        policy = (deployment.properties.get("DeploymentPolicies") or {}).get("FailureHandlingPolicy")
        if policy != "ROLLBACK":
            yield Finding(deployment, "Properties/DeploymentPolicies/FailureHandlingPolicy", str(policy))


@rule(
    "UpdatePolicy",
    "a deployment must ask components before it updates them, which the classic nucleus does and nucleus lite does not",
    reason="a component is stopped in the middle of its work; on nucleus lite it is in any case, by SIGTERM",
    fix='set DeploymentPolicies.ComponentUpdatePolicy.Action to "NOTIFY_COMPONENTS", and put work away on SIGTERM',
    fact=lite_deployment.UPDATE_POLICY,
)
def updates_are_announced(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        policy = (deployment.properties.get("DeploymentPolicies") or {}).get("ComponentUpdatePolicy") or {}
        if policy.get("Action") != "NOTIFY_COMPONENTS":
            yield Finding(deployment, "Properties/DeploymentPolicies/ComponentUpdatePolicy", str(policy.get("Action")))


@rule(
    "RolloutRate",
    "a deployment to a group must notify between 1 and 1000 devices a minute",
    reason="without a rate a faulty version is everywhere before the first failure is counted",
    fix="set IotJobConfiguration.JobExecutionsRolloutConfig",
)
def rollouts_have_a_rate(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        job = deployment.properties.get("IotJobConfiguration") or {}
        rollout = job.get("JobExecutionsRolloutConfig") or {}
        rate = rollout.get("MaximumPerMinute")
        staged = "ExponentialRate" in rollout and rate is None
        if not is_thing(deployment) and not staged and not 1 <= float(rate or 0) <= DEVICES_PER_MINUTE:
            yield Finding(deployment, "Properties/IotJobConfiguration/JobExecutionsRolloutConfig", str(rate))


@rule(
    "VersionPin",
    "a deployment must name exact component versions",
    reason="the same template gives other devices other code",
    fix='write "1.2.3", derived from the content',
)
def versions_are_exact(fleet: FleetView) -> Iterator[Finding]:
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in components_of(deployment).items():
            version = deployment.text(wanted.get("ComponentVersion", ""))
            if not _EXACT.fullmatch(version) and "<" not in version[:1]:
                yield Finding(deployment, f"Properties/Components/{name}/ComponentVersion", version or "no version")


@rule(
    "VersionDefined",
    "a deployed version of the app's own component must be defined by the app",
    reason="the deployment fails on the devices, after CloudFormation said CREATE_COMPLETE",
    fix="deploy the version that the component's resource has",
)
def deployed_versions_exist(fleet: FleetView) -> Iterator[Finding]:
    defined: dict[str, set[str]] = defaultdict(set)
    for recipe in recipes(fleet):
        defined[recipe.name].add(recipe.version)
    for deployment in fleet.of_type(DEPLOYMENT):
        for name, wanted in components_of(deployment).items():
            version = deployment.text(wanted.get("ComponentVersion", ""))
            if name in defined and _EXACT.fullmatch(version) and version not in defined[name]:
                yield Finding(deployment, f"Properties/Components/{name}/ComponentVersion", version)


@rule(
    "OneDeployment",
    "a target must have one deployment",
    reason="each cancels the other, and the last one created wins",
    fix="put all components of a target into one deployment",
)
def targets_have_one_deployment(fleet: FleetView) -> Iterator[Finding]:
    by_target: dict[str, list[Resource]] = defaultdict(list)
    for deployment in fleet.of_type(DEPLOYMENT):
        by_target[target_of(deployment)].append(deployment)
    for target, deployments in by_target.items():
        for deployment in deployments[1:]:
            yield Finding(deployment, "Properties/TargetArn", f"{target}, also of {deployments[0].logical_id}")


@rule(
    "ComponentRetain",
    "a replaced component version must be retained",
    reason="a device that is offline still needs the version that it was told to run",
    fix="set UpdateReplacePolicy to Retain, and sweep retained versions at destroy",
)
def versions_are_retained(fleet: FleetView) -> Iterator[Finding]:
    for resource in fleet.of_type(COMPONENT):
        if resource.body.get("UpdateReplacePolicy") != "Retain":
            yield Finding(resource, "UpdateReplacePolicy", str(resource.body.get("UpdateReplacePolicy")))


@rule(
    "VersionTwice",
    "a component version must be defined once",
    reason="versions are immutable: the second one fails with AlreadyExists, and the stack rolls back",
    fix="derive the version from the content",
)
def versions_are_defined_once(fleet: FleetView) -> Iterator[Finding]:
    seen: dict[tuple[str, str], str] = {}
    for recipe in recipes(fleet):
        key = (recipe.name, recipe.version)
        if key in seen:
            yield Finding(recipe.resource, PLACE, f"{recipe.name} {recipe.version}, also {seen[key]}")
        seen.setdefault(key, recipe.resource.logical_id)


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
    for recipe, (place, name, _) in parts_of(fleet, Recipe.steps):
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
            # A merge that is known in the cloud only is passed over.
            merge = merge_of(deployment, wanted) or {}
            before = set(_keys_alike(defaults.get(name, {})))
            for path, pair in _keys_alike(defaults.get(name, {}), merge):
                if (path, pair) not in before:
                    yield Finding(deployment, f"Properties/Components/{name}/ConfigurationUpdate/Merge{path}", pair)


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
