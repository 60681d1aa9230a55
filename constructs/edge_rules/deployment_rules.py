"""Rules on deployments and on the component versions that they name."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from edge_rules.device_rules import is_thing
from edge_rules.fleet_view import FleetView, Resource
from edge_rules.recipe_view import COMPONENT, DEPLOYMENT, PLACE, components_of, recipes, target_of
from edge_rules.rule import Finding, rule
from nucleus_lite import deployment as lite_deployment

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
