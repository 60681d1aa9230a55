"""Component versions: made once from a recipe, never changed; their artifacts, their choice for a device, their API."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from ministack.core import iam_evaluator
from ministack.core.responses import AccountRegionScopedDict, get_account_id, get_region
from ministack.services import s3

from config.public_components import PUBLIC_COMPONENTS
from twin.clock import CLOCK
from twin.cloud.aws.protocol import (
    Answer,
    Call,
    ConflictError,
    InvalidRequestError,
    Mistake,
    NotFoundError,
    Route,
    find,
    page,
)
from twin.cloud.aws.shapes import read_request
from twin.cloud.greengrass.recipe import Recipe, Version, VersionRange, artifacts, read_recipe

SERVICE = "greengrassv2"
"""botocore's name of the service model."""

Record = dict[str, Any]

COMPONENTS: AccountRegionScopedDict = AccountRegionScopedDict()
"""Version ARN → record: arn, componentName, componentVersion, recipe (canonical), creationTimestamp (s), tags."""

PUBLIC_SINCE = 1_791_000_000.0
"""Creation time of AWS's own components in answers: about when the table was read."""

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
        "creationTimestamp": CLOCK.time(),
        "tags": dict(request.get("tags") or {}),
        "clientToken": token,
    }
    COMPONENTS[arn] = record
    return record


def _existing(arn: str, token: str | None) -> Record | None:
    if (name := arn.partition(":components:")[2].partition(":")[0]) in PUBLIC_COMPONENTS:
        raise ConflictError("component", arn, f"{name} is AWS's: give your component another name")
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
    owner = "aws" if name in PUBLIC_COMPONENTS else get_account_id()
    return f"arn:aws:greengrass:{get_region()}:{owner}:components:{name}"


def public_versions() -> dict[str, Record]:
    """AWS's own components of the table, by ARN, as records; nothing of them is stored."""
    return {
        (arn := f"{component_arn(name)}:versions:{component.version}"): {
            "arn": arn,
            "componentName": name,
            "componentVersion": component.version,
            "recipe": component.recipe,
            "creationTimestamp": PUBLIC_SINCE,
            "tags": {},
        }
        for name, component in PUBLIC_COMPONENTS.items()
    }


def component_version(arn: str) -> Record:
    """The version with this ARN, of the account or of AWS.

    Raises:
        NotFoundError: If there is none.
    """
    return public_versions().get(arn) or find(COMPONENTS, arn, "component")


def delete_component_version(arn: str) -> None:
    """Remove a version; devices that have it keep running it.

    Raises:
        NotFoundError: If the account has none.
    """
    find(COMPONENTS, arn, "component")
    del COMPONENTS[arn]


def versions_of(name: str) -> list[Record]:
    """Every version of a component, the highest first."""
    if name in PUBLIC_COMPONENTS:
        return [record for record in public_versions().values() if record["componentName"] == name]
    return newest_first([record for record in COMPONENTS.values() if record["componentName"] == name])


def newest_first(records: list[Record]) -> list[Record]:
    """Records of one component sorted by SemVer precedence, the highest first."""
    return sorted(records, key=lambda record: Version.parse(record["componentVersion"]).precedence, reverse=True)


ARTIFACTS_LIMIT_BYTES = 2 * 1024**3
"""Quota: all artifacts of one component version together (AWS general reference, Greengrass V2 quotas)."""


async def add_digests(recipe: Recipe) -> None:
    """Set `Digest` (base64 SHA-256) and `Algorithm` of every S3 artifact of a canonical recipe.

    The objects are read in process and hashed in a worker thread, part by part where they lie on disk: the event
    loop goes on serving, and provisioners may call this.

    Raises:
        InvalidRequestError: If an object does not exist, or all together are larger than 2 GiB.
    """
    mistakes: list[Mistake] = []
    total_bytes = 0
    for artifact in artifacts(recipe):
        uri = artifact["Uri"]
        if not uri.startswith("s3://"):
            continue
        bucket, key = _place(uri)
        stored = (s3._buckets.get(bucket) or {"objects": {}})["objects"].get(key)
        if stored is None:
            mistakes.append((uri, "must exist in S3 before the component version is created: upload it first"))
            continue
        total_bytes += int(stored.get("size") or 0)
        if total_bytes > ARTIFACTS_LIMIT_BYTES:
            mistakes.append((uri, f"must keep all artifacts within {ARTIFACTS_LIMIT_BYTES} bytes, got {total_bytes}"))
            break
        artifact["Digest"] = await asyncio.to_thread(_digest, bucket, key, stored)
        artifact["Algorithm"] = "SHA-256"
    if mistakes:
        raise InvalidRequestError(mistakes)


def _place(uri: str) -> tuple[str, str]:
    """Bucket and key of an S3 URI."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def _digest(bucket: str, key: str, stored: dict[str, Any]) -> str:
    path = s3._object_disk_path(bucket, key) if s3.S3_PERSIST else None
    if stored.get("body") is None and path is not None:
        with Path(path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
    else:
        digest = hashlib.sha256(s3._read_body(bucket, key, stored))
    return base64.b64encode(digest.digest()).decode()


LIFE_S = 3600


def artifact_location(arn: str, path: str) -> dict[str, str]:
    """A URL that needs no credentials, by AWS's name of the bucket.

    AWS keeps the artifacts of its own components itself; the twin has none of those, and answers for the S3 artifacts
    of the account's components, by file name or key.

    Args:
        arn: Of a component version.
        path: The part of the artifact's URI after `greengrass:` or after the bucket, or its last part.

    Returns:
        `{"preSignedUrl"}`, good for an hour.

    Raises:
        NotFoundError: If there is no such version or it has no such artifact.
    """
    for artifact in artifacts(component_version(arn)["recipe"]):
        uri = str(artifact["Uri"])
        if not uri.startswith("s3://"):
            continue
        bucket, key = _place(uri)
        if path in (key, key.rsplit("/", 1)[-1]):
            url = f"https://{bucket}.s3.{get_region()}.amazonaws.com/{quote(key)}"
            request = AWSRequest("GET", url)
            S3SigV4QueryAuth(_administrator(), "s3", get_region(), LIFE_S).add_auth(request)
            return {"preSignedUrl": str(request.url)}
    raise NotFoundError("artifact", f"{arn} {path}")


def _administrator() -> Credentials:
    """The account's own key, with the secret by which MiniStack checks its signatures."""
    resolved = iam_evaluator.resolve_credential(get_account_id(), get_account_id(), "")
    return Credentials(get_account_id(), resolved.secret_access_key)


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


_DEPLOYABLE = {"componentState": "DEPLOYABLE", "message": "NONE", "errors": {}, "vendorGuidance": "ACTIVE"}


async def _create_version(call: Call) -> Answer:
    record = await create_component_version(read_request(SERVICE, "CreateComponentVersion", call.body))
    summary = {key: record[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp")}
    return 201, {**summary, "status": _DEPLOYABLE}


async def _describe(call: Call) -> Answer:
    record = component_version(call.names[0])
    return 200, {
        **{key: record[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp", "tags")},
        "publisher": record["recipe"].get("ComponentPublisher"),
        "description": record["recipe"].get("ComponentDescription"),
        "status": _DEPLOYABLE,
        "platforms": _platforms(record["recipe"]),
    }


async def _get(call: Call) -> Answer:
    record = component_version(call.names[0])
    output = call.query.get("recipeOutputFormat", "JSON")
    if output not in ("JSON", "YAML"):
        raise InvalidRequestError([("recipeOutputFormat", f"must be JSON or YAML, got {output!r}")])
    recipe = record["recipe"]
    text = json.dumps(recipe) if output == "JSON" else yaml.safe_dump(recipe, sort_keys=False)
    encoded = base64.b64encode(text.encode()).decode()
    return 200, {"recipeOutputFormat": output, "recipe": encoded, "tags": record["tags"]}


async def _delete(call: Call) -> Answer:
    delete_component_version(call.names[0])
    return 204, None


async def _list(call: Call) -> Answer:
    # Of AWS's components the twin knows those of the table, of the community's none.
    private = call.query.get("scope", "PRIVATE") == "PRIVATE"
    by_name: dict[str, list[Record]] = {}
    for record in COMPONENTS.values() if private else public_versions().values():
        by_name.setdefault(record["componentName"], []).append(record)
    summaries = [_summary(name, newest_first(records)[0]) for name, records in sorted(by_name.items())]
    return 200, page("components", summaries, call.query)


async def _list_versions(call: Call) -> Answer:
    name = call.names[0].rsplit(":", 1)[-1]
    members = ("componentName", "componentVersion", "arn")
    versions = [{key: record[key] for key in members} for record in versions_of(name)]
    return 200, page("componentVersions", versions, call.query)


async def _resolve(call: Call) -> Answer:
    return 200, resolve_component_candidates(read_request(SERVICE, "ResolveComponentCandidates", call.body))


def _summary(name: str, latest: Record) -> dict[str, Any]:
    return {
        "arn": component_arn(name),
        "componentName": name,
        "latestVersion": {
            **{key: latest[key] for key in ("arn", "componentVersion", "creationTimestamp")},
            "description": latest["recipe"].get("ComponentDescription"),
            "publisher": latest["recipe"].get("ComponentPublisher"),
            "platforms": _platforms(latest["recipe"]),
        },
    }


def _platforms(recipe: Recipe) -> list[dict[str, Any]]:
    return [
        {
            "name": manifest.get("Name"),
            "attributes": {key: str(value) for key, value in (manifest.get("Platform") or {}).items()},
        }
        for manifest in recipe["Manifests"]
    ]


_COMPONENTS = "/greengrass/v2/components"

ROUTES: list[Route] = [
    ("POST", "/greengrass/v2/createComponentVersion", _create_version),
    ("POST", "/greengrass/v2/resolveComponentCandidates", _resolve),
    ("GET", _COMPONENTS, _list),
    ("GET", _COMPONENTS + "/(arn:[^/]+)/versions", _list_versions),
    ("GET", _COMPONENTS + "/(arn:[^/]+)/metadata", _describe),
    ("GET", _COMPONENTS + "/(arn:[^/]+)", _get),
    ("DELETE", _COMPONENTS + "/(arn:[^/]+)", _delete),
]

STORES = {"greengrass_components": COMPONENTS}
