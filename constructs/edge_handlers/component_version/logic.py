"""Makes component versions that may be there already: content that comes back after a revert keeps its version.

A version follows from its content and outlives its resource, because a device that was away may still need it. So a
version that is there is the one that is wanted, unless somebody made it by hand: its recipe's digest is kept in a tag.
Greengrass hands recipes back in a form of its own, with digests, defaults and other spellings: comparing texts would
refuse what is equal.

Permissions:
    greengrass:CreateComponentVersion   `*` (the action has no resource), with the stage's tags only
    greengrass:DescribeComponent, greengrass:GetComponent, greengrass:DeleteComponent, greengrass:TagResource
                                        arn:<partition>:greengrass:<region>:<account>:components:<name>:versions:*
    s3:GetObject, kms:Decrypt           the artifacts (Greengrass reads them with the caller's rights)
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_handlers.component_version.recipe_match import differences
from edge_handlers.custom_resource import Properties
from edge_handlers.deadline import Deadline
from edge_handlers.service_client import explaining, ignoring

LOG = logging.getLogger(__name__)
DIGEST_TAG = "edgewright:recipe"
GONE, THERE = "ResourceNotFoundException", "ConflictException"
_PENDING = ("REQUESTED", "INITIATED")
_POLL_S = 1.0
#: Made, gone in the meantime, made again: nobody removes a version more often than that by accident.
_ROUNDS = 3


class ComponentVersionError(RuntimeError):
    """The version cannot be had; the text names the component, its version and what to do."""


@dataclass(frozen=True)
class ComponentVersion:
    """What is wanted.

    Args:
        arn: The version's ARN.
        recipe: JSON.
        tags: Of the version, besides the recipe's digest.
    """

    arn: str
    recipe: str
    tags: Mapping[str, str]

    @classmethod
    def of(cls, properties: Properties) -> "ComponentVersion":
        """Read ComponentVersionArn, InlineRecipe and, if given, Tags.

        Raises:
            ValueError: One is missing or has another form, or the ARN names another version than the recipe.
        """
        recipe, arn = properties.json_object("InlineRecipe"), properties.text("ComponentVersionArn")
        name = f":components:{recipe.get('ComponentName')}:versions:{recipe.get('ComponentVersion')}"
        if not arn.endswith(name):
            raise ValueError(f"{properties.where}.ComponentVersionArn must end with {name}, got {arn!r}")
        tags = properties.values.get("Tags") or {}
        if not isinstance(tags, Mapping):
            raise ValueError(f"{properties.where}.Tags must be a mapping, got {type(tags).__name__}")
        return cls(arn, properties.text("InlineRecipe"), {str(key): str(value) for key, value in tags.items()})

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(json.loads(self.recipe), sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        _, _, name, _, version = self.arn.rsplit(":", 4)
        return f"component {name} {version}"


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
    with explaining(f"make {wanted}"), ignoring(THERE):
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
