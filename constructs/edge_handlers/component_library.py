"""Custom resources: a stage's component versions in Greengrass, and the sweep that takes them away at destroy.

Content that comes back after a revert keeps its version. A version follows from its content and outlives its resource,
because a device that was away may still need it; it goes with the last deployment that names its component. So a
version that is there is the one that is wanted, unless somebody made it by hand: its recipe's digest is kept in a tag.
Greengrass hands recipes back in a form of its own, with digests, defaults and other spellings: comparing texts would
refuse what is equal.

A deployment that CloudFormation replaced or lost stays in the account: at destroy it goes with the versions. One
function serves both resources, since they belong together.
"""

import hashlib
import json
import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from edge_handlers.answering import answering
from edge_handlers.custom_resource import Contract, Key, Properties, Request, RequestType, mapping, parse, texts
from edge_handlers.device_list import check_thing_group
from edge_handlers.service_client import GONE, Deadline, client, describe, explaining, ignoring, settling

LOG = logging.getLogger(__name__)
DIGEST_TAG = "edgewright:recipe"
_THERE = "ConflictException"
_PENDING = ("REQUESTED", "INITIATED")
_POLL_S = 1.0
#: Made, gone in the meantime, made again: nobody removes a version more often than that by accident.
_ROUNDS = 3


class ComponentVersionError(RuntimeError):
    """The version cannot be had; the text names the component, its version and what to do."""


def _recipe(properties: Properties, name: str) -> str:
    properties.json_object(name)
    return properties.text(name)


@dataclass(frozen=True)
class ComponentVersion(Contract):
    """What is wanted.

    Args:
        arn: The version's ARN.
        recipe: JSON.
        tags: Of the version, besides the recipe's digest.
        targets: Thing groups that the stage deploys to: a component that none of them names any more goes with its
            resource. None of an older release, which kept it.
    """

    TYPE = "Custom::ComponentVersion"

    arn: Annotated[str, Key("ComponentVersionArn")]
    recipe: Annotated[str, Key("InlineRecipe", _recipe)]
    tags: Annotated[Mapping[str, str], mapping("Tags")] = field(default_factory=dict)
    targets: Annotated[tuple[str, ...], texts("TargetArns")] = ()

    def check(self, properties: Properties) -> None:
        """Refuse an ARN of another version than the recipe's."""
        recipe = json.loads(self.recipe)
        name = f":components:{recipe.get('ComponentName')}:versions:{recipe.get('ComponentVersion')}"
        if not self.arn.endswith(name):
            raise ValueError(f"{properties.where}.{self.key('arn')} must end with {name}, got {self.arn!r}")

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(json.loads(self.recipe), sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        _, _, name, _, version = self.arn.rsplit(":", 4)
        return f"component {name} {version}"


@dataclass(frozen=True)
class ComponentSweep(Contract):
    """What belongs to the stage.

    Args:
        names: Component names. `edgewright.dev.*` stands for every component whose name starts so, those of a
            model that has left the configuration included.
        target_arn: The thing group of the ring `all`, whose deployments are the stage's; it names the sweep.
        ring_arns: The other rings' thing groups, whose deployments are the stage's, too.
    """

    TYPE = "Custom::ComponentSweep"

    names: Annotated[tuple[str, ...], texts("ComponentNames")]
    target_arn: Annotated[str, Key("ThingGroupArn")]
    ring_arns: Annotated[tuple[str, ...], texts("RingArns")] = ()

    def check(self, properties: Properties) -> None:
        """Refuse an ARN that is not a thing group's, and a name that would take in components of others."""
        for name, target in [("target_arn", self.target_arn), *(("ring_arns", ring) for ring in self.ring_arns)]:
            check_thing_group(target, f"{properties.where}.{self.key(name)}")
        for name in self.names:
            if "*" in name and not re.fullmatch(r"[^*]+\.[^*]+\.\*", name):
                raise ValueError(
                    f"{properties.where}.{self.key('names')} may use an asterisk only as the last of three or more "
                    f"parts, as in edgewright.dev.*, got {name!r}"
                )

    @property
    def physical_id(self) -> str:
        """The id that Create gives; it stays when the target changes."""
        return f"sweep-{self.target_arn}"

    def component_arn(self, name: str) -> str:
        """ARN of a component in the account and Region of the target."""
        _, partition, _, region, account, _ = self.target_arn.split(":", 5)
        return f"arn:{partition}:greengrass:{region}:{account}:components:{name}"


def on_event(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of CloudFormation, of a version or of the sweep."""
    if event.get("ResourceType") == ComponentSweep.TYPE:
        return _on_sweep(event, context)
    request = parse(event)
    if request.type is RequestType.DELETE:
        _on_version_left(request, Deadline.of(context))
        return {"PhysicalResourceId": request.known_id}
    wanted = ComponentVersion.of(request.properties)
    was_there = ensure(wanted, client("greengrassv2"), Deadline.of(context))
    return {"PhysicalResourceId": wanted.arn, "Data": {"Arn": wanted.arn, "WasThere": str(was_there).lower()}}


def _on_version_left(request: Request, deadline: Deadline) -> None:
    """Replaced or rolled back: a device may need it still, and the sweep takes it with the stage. Left out: gone."""
    try:
        left = ComponentVersion.of(request.properties)
    except ValueError:
        return
    greengrass = client("greengrassv2")
    if not left.targets or _is_deployed(left, greengrass):
        return
    _delete_versions(_versions_of(left.arn.rpartition(":versions:")[0], greengrass), greengrass, deadline)


def _is_deployed(version: ComponentVersion, greengrass: Any) -> bool:
    """Whether a deployment of the stage names the component, in whatever version."""
    name = json.loads(version.recipe)["ComponentName"]
    for target in version.targets:
        for deployment in (each["deploymentId"] for each in _deployments(target, greengrass, "LATEST_ONLY")):
            with explaining(f"read deployment {deployment} of {target}"):
                found = describe(greengrass.get_deployment, deploymentId=deployment) or {}
            if name in (found.get("components") or {}):
                return True
    return False


def _on_sweep(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Create and Update only name the resource, Delete sweeps."""
    request = parse(event)
    sweep = ComponentSweep.of(request.properties)
    if request.type is RequestType.CREATE:
        return {"PhysicalResourceId": sweep.physical_id}
    if request.type is RequestType.DELETE:
        sweep_away(sweep, client("greengrassv2"), Deadline.of(context))
    # Another target keeps the id: the Delete of a replaced sweep would take the components its successor needs.
    return {"PhysicalResourceId": request.known_id}


def ensure(wanted: ComponentVersion, greengrass: Any, deadline: Deadline) -> bool:
    """Make the version, or take over the one that is there, and wait until it can be deployed.

    Args:
        wanted: The version.
        greengrass: A boto3 greengrassv2 client.
        deadline: Ends the wait.

    Returns:
        Whether it was there.

    Raises:
        ComponentVersionError: It is there with another recipe, or Greengrass cannot use it.
        AwsCallError: Greengrass refused a call.
        DeadlineError: It is not ready in time.
    """
    for _ in range(_ROUNDS):
        made = _create(wanted, greengrass)
        found = _described(wanted, greengrass, deadline)
        if found is None:
            continue
        if found["status"]["componentState"] == "FAILED":
            # Nobody can use it, and as long as it is there the version cannot be made.
            with explaining(f"delete {wanted}, which failed"), ignoring(GONE):
                greengrass.delete_component(arn=wanted.arn)
            if made:
                raise ComponentVersionError(f"{wanted} cannot be deployed: {_reasons(found)}; correct it, deploy again")
            continue
        if not made:
            _adopt(wanted, found, greengrass)
        LOG.info("%s is %s", wanted, "made" if made else "taken over")
        return not made
    raise ComponentVersionError(f"{wanted} was removed {_ROUNDS} times while it was made; deploy again")


def _create(wanted: ComponentVersion, greengrass: Any) -> bool:
    tags = {**wanted.tags, DIGEST_TAG: wanted.digest}
    with explaining(f"make {wanted}"), ignoring(_THERE):
        greengrass.create_component_version(inlineRecipe=wanted.recipe.encode(), tags=tags)
        return True
    return False


def _described(wanted: ComponentVersion, greengrass: Any, deadline: Deadline) -> dict[str, Any] | None:
    """The version once Greengrass has looked at it; None if it has gone."""
    with explaining(f"describe {wanted}"), ignoring(GONE):
        while True:
            found = dict(greengrass.describe_component(arn=wanted.arn))
            if found["status"]["componentState"] not in _PENDING:
                return found
            deadline.check(f"wait for {wanted}, which is {found['status']['componentState']}")
            time.sleep(_POLL_S)
    return None


def _adopt(wanted: ComponentVersion, found: Mapping[str, Any], greengrass: Any) -> None:
    tags = found.get("tags") or {}
    digest = tags.get(DIGEST_TAG)
    if digest is None:
        with explaining(f"read the recipe of {wanted}"):
            recipe = greengrass.get_component(arn=wanted.arn, recipeOutputFormat="JSON")["recipe"]
        other = differences(json.loads(wanted.recipe), json.loads(recipe))
    else:
        other = [] if digest == wanted.digest else ["the digest of its recipe"]
    if other:
        raise ComponentVersionError(
            f"{wanted} is there already with another recipe (it differs in {', '.join(other[:3])}): a version never "
            f"changes; raise revision in the stage's file, or delete it if no device needs it: "
            f"aws greengrassv2 delete-component --arn {wanted.arn}"
        )
    missing = {**wanted.tags, DIGEST_TAG: wanted.digest}.items() - tags.items()
    if missing:
        with explaining(f"tag {wanted}"):
            greengrass.tag_resource(resourceArn=wanted.arn, tags=dict(missing))


def _reasons(found: Mapping[str, Any]) -> str:
    status = found["status"]
    errors = [f"{where}: {what}" for where, what in (status.get("errors") or {}).items()]
    return "; ".join(filter(None, [status.get("message", ""), *errors])) or "Greengrass gives no reason"


def differences(wanted: Any, kept: Any, path: str = "") -> list[str]:
    """List where a kept recipe says something else than the wanted one.

    Greengrass adds to a recipe (digests, defaults), so only what is wanted must be there; it spells the keys of a
    lifecycle and enumerations in another case.

    Args:
        wanted: The recipe, or a part of it.
        kept: The same part as Greengrass hands it back.
        path: Of the part.

    Returns:
        Paths such as `Manifests/0/Artifacts/0/Uri`; none for equal recipes.
    """
    if isinstance(wanted, Mapping):
        if not isinstance(kept, Mapping):
            return [path or "its form"]
        known = {key.lower(): value for key, value in kept.items()}
        return [
            place
            for key, value in wanted.items()
            for place in differences(value, known.get(key.lower()), f"{path}/{key}".lstrip("/"))
        ]
    if isinstance(wanted, list):
        if not isinstance(kept, list) or len(wanted) != len(kept):
            return [path]
        pairs = enumerate(zip(wanted, kept, strict=True))
        return [place for at, (one, other) in pairs for place in differences(one, other, f"{path}/{at}")]
    if wanted is None or wanted == kept:
        return []
    same = isinstance(wanted, str) and isinstance(kept, str) and path.rpartition("/")[2] in ("Unarchive", "os")
    return [] if same and wanted.lower() == kept.lower() else [path]


def sweep_away(sweep: ComponentSweep, greengrass: Any, deadline: Deadline) -> None:
    """Cancel and delete the targets' deployments, then delete every version of the components.

    Args:
        sweep: What belongs to the stage.
        greengrass: A boto3 greengrassv2 client.
        deadline: Checked before each deployment and version.

    Raises:
        AwsCallError: Greengrass refused a call; the text names the deployment or the component.
        DeadlineError: The time is over; a second run goes on.
    """
    for target in (sweep.target_arn, *sweep.ring_arns):
        for deployment in _deployments(target, greengrass):
            name = deployment["deploymentId"]
            deadline.check(f"delete deployment {name}")
            with explaining(f"delete deployment {name} of {target}"):
                _delete_deployment(deployment, greengrass)
    names = _component_names(sweep, greengrass)
    versions = [arn for name in names for arn in _versions_of(sweep.component_arn(name), greengrass)]
    _delete_versions(versions, greengrass, deadline)


def _delete_versions(arns: list[str], greengrass: Any, deadline: Deadline) -> None:
    for arn in arns:
        deadline.check(f"delete {arn}")
        with explaining(f"delete component version {arn}"), ignoring(GONE):
            settling(partial(greengrass.delete_component, arn=arn), "ConflictException")
            LOG.info("deleted %s", arn)


def _deployments(target_arn: str, greengrass: Any, history: str = "ALL") -> list[dict[str, Any]]:
    """All of them, before the first is deleted: a listing that shrinks while it is read skips entries."""
    with explaining(f"list the deployments of {target_arn}"):
        pages = greengrass.get_paginator("list_deployments").paginate(targetArn=target_arn, historyFilter=history)
        return [deployment for page in pages for deployment in page["deployments"]]


def _delete_deployment(deployment: dict[str, Any], greengrass: Any) -> None:
    name = deployment["deploymentId"]
    with ignoring(GONE):
        if deployment.get("deploymentStatus") == "ACTIVE":
            with ignoring("ConflictException"):  # it ended in the meantime
                greengrass.cancel_deployment(deploymentId=name)
        # The IoT job behind it is cancelled a moment later.
        settling(lambda: greengrass.delete_deployment(deploymentId=name), "ConflictException")
        LOG.info("deleted deployment %s", name)


def _versions_of(component: str, greengrass: Any) -> list[str]:
    with explaining(f"list the versions of component {component.rpartition(':')[2]}"), ignoring(GONE):
        pages = greengrass.get_paginator("list_component_versions").paginate(arn=component)
        return [version["arn"] for page in pages for version in page["componentVersions"]]
    return []


def _component_names(sweep: ComponentSweep, greengrass: Any) -> Iterator[str]:
    patterns = tuple(name[:-1] for name in sweep.names if name.endswith("*"))
    exact = [name for name in sweep.names if not name.endswith("*")]
    yield from exact
    if not patterns:
        return
    with explaining("list the account's components"):
        pages = greengrass.get_paginator("list_components").paginate(scope="PRIVATE")
        listed = [component["componentName"] for page in pages for component in page["components"]]
    yield from (name for name in listed if name.startswith(patterns) and name not in exact)


handler = answering(on_event)
