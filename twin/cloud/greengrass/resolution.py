"""Which version of each component a device gets: ResolveComponentCandidates."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from twin.cloud.greengrass.component import versions_of
from twin.cloud.greengrass.recipe import Recipe
from twin.cloud.greengrass.service_error import InvalidRequestError, NotFoundError
from twin.cloud.greengrass.version_range import Version, VersionRange

NUCLEUS_LITE = "aws_nucleus_lite"


def resolve_component_candidates(request: dict[str, Any]) -> dict[str, Any]:
    """The highest version of each candidate that meets all its requirements and has a manifest for the platform.

    Args:
        request: `componentCandidates` (componentName, componentVersion?, versionRequirements: requirer → range) and
            `platform.attributes` (os, architecture, runtime).

    Returns:
        `resolvedComponentVersions`, each with its canonical recipe as base64 of JSON.

    Raises:
        InvalidRequestError: If a version or a range does not parse.
        NotFoundError: If no version of a candidate fits.
    """
    attributes = {key: str(value) for key, value in ((request.get("platform") or {}).get("attributes") or {}).items()}
    candidates = request.get("componentCandidates") or []
    return {"resolvedComponentVersions": [_resolved(candidate, attributes) for candidate in candidates]}


def _resolved(candidate: dict[str, Any], attributes: dict[str, str]) -> dict[str, Any]:
    name = candidate.get("componentName") or ""
    requirements = dict(candidate.get("versionRequirements") or {})
    if candidate.get("componentVersion"):
        requirements["componentVersion"] = candidate["componentVersion"]
    try:
        ranges = [VersionRange.parse(str(requirement)) for requirement in requirements.values()]
    except ValueError as error:
        raise InvalidRequestError([(f"componentCandidates.{name}", str(error))]) from error
    versions = versions_of(name)
    for record in versions:
        version = Version.parse(record["componentVersion"])
        if all(wanted.allows(version) for wanted in ranges) and fits_platform(record["recipe"], attributes):
            recipe = json.dumps(record["recipe"], separators=(",", ":")).encode()
            return {
                "arn": record["arn"],
                "componentName": name,
                "componentVersion": record["componentVersion"],
                "recipe": base64.b64encode(recipe).decode(),
                "vendorGuidance": "ACTIVE",
            }
    existing = ", ".join(record["componentVersion"] for record in versions[:10]) or "none"
    raise NotFoundError(
        "component version",
        f"no version of {name} for {json.dumps(requirements)} on {json.dumps(attributes)} (versions: {existing})",
    )


def fits_platform(recipe: Recipe, attributes: dict[str, str]) -> bool:
    """Whether one of the recipe's manifests is for a device with these platform attributes."""
    return any(_manifest_fits(manifest.get("Platform") or {}, attributes) for manifest in recipe["Manifests"])


def _manifest_fits(platform: dict[str, Any], attributes: dict[str, str]) -> bool:
    wanted = {str(key).lower(): str(value) for key, value in platform.items()}
    # Nucleus lite is offered only manifests that name it: a recipe without `runtime` was written for the classic one.
    if attributes.get("runtime") == NUCLEUS_LITE and wanted.get("runtime") not in ("*", NUCLEUS_LITE):
        return False
    return all(_attribute_fits(key, value, attributes.get(key)) for key, value in wanted.items())


def _attribute_fits(key: str, wanted: str, actual: str | None) -> bool:
    if wanted == "*" or (key == "os" and wanted == "all"):
        return True
    if actual is None:
        return False
    if len(wanted) > 1 and wanted[0] == wanted[-1] == "/":
        try:
            return re.fullmatch(wanted[1:-1], actual) is not None
        except re.error:
            return False
    return wanted == actual
