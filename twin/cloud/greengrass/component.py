"""Component versions: made once from a recipe, never changed, found by name and range."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Any

from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region

from twin.cloud.greengrass.artifact_digest import add_digests
from twin.cloud.greengrass.recipe import read_recipe
from twin.cloud.greengrass.service_error import ConflictError, InvalidRequestError, NotFoundError
from twin.cloud.greengrass.version_range import Version

Record = dict[str, Any]

COMPONENTS: AccountRegionScopedDict = AccountRegionScopedDict()
"""Version ARN → record: arn, componentName, componentVersion, recipe (canonical), creationTimestamp (s), tags."""

VERSIONS_LIMIT = 5000
"""Quota: versions of one component (AWS general reference, Greengrass V2 quotas)."""


async def create_component_version(request: dict[str, Any]) -> Record:
    """Make a component version from `inlineRecipe` (base64 of JSON or YAML).

    The same request with the same client token is answered with what it made the first time.

    Raises:
        InvalidRequestError: If the recipe breaks a rule, or an artifact is not in S3.
        ConflictError: If the component has this version already.
    """
    if "inlineRecipe" not in request:
        raise InvalidRequestError([("inlineRecipe", "must be given: the twin makes no components of Lambda functions")])
    try:
        source = base64.b64decode(request["inlineRecipe"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError([("inlineRecipe", f"must be base64: {error}")], "CANNOT_PARSE") from error
    recipe = read_recipe(source)
    name, version = recipe["ComponentName"], recipe["ComponentVersion"]
    arn = f"{component_arn(name)}:versions:{version}"
    token = request.get("clientToken")
    if repeated := _existing(arn, token):
        return repeated
    if len(versions_of(name)) >= VERSIONS_LIMIT:
        raise InvalidRequestError([("ComponentName", f"must have at most {VERSIONS_LIMIT} versions, got one more")])
    await add_digests(recipe)
    # Hashing took a while: another request may have made the same version meanwhile.
    if repeated := _existing(arn, token):
        return repeated
    record: Record = {
        "arn": arn,
        "componentName": name,
        "componentVersion": version,
        "recipe": recipe,
        "creationTimestamp": time.time(),
        "tags": dict(request.get("tags") or {}),
        "clientToken": token,
    }
    COMPONENTS[arn] = record
    return record


def _existing(arn: str, token: str | None) -> Record | None:
    record: Record | None = COMPONENTS.get(arn)
    if record is None or (token and record["clientToken"] == token):
        return record
    raise ConflictError(
        "component",
        arn,
        f"Component [{record['componentName']} : {record['componentVersion']}] already exists: "
        "a component version never changes, give the changed one a new version",
    )


def component_arn(name: str) -> str:
    """ARN of a component of the request's account and region, without a version."""
    return f"arn:aws:greengrass:{get_region()}:{get_account_id()}:components:{name}"


def component_version(arn: str) -> Record:
    """The version with this ARN.

    Raises:
        NotFoundError: If there is none.
    """
    record: Record | None = COMPONENTS.get(arn)
    if record is None:
        raise NotFoundError("component", arn)
    return record


def delete_component_version(arn: str) -> None:
    """Remove a version; devices that have it keep running it.

    Raises:
        NotFoundError: If there is none.
    """
    component_version(arn)
    del COMPONENTS[arn]


def versions_of(name: str) -> list[Record]:
    """Every version of a component, the highest first."""
    return newest_first([record for record in COMPONENTS.values() if record["componentName"] == name])


def newest_first(records: list[Record]) -> list[Record]:
    """Records of one component sorted by SemVer precedence, the highest first."""
    return sorted(records, key=lambda record: Version.parse(record["componentVersion"]).precedence, reverse=True)
