"""The component operations of the Greengrass API."""

from __future__ import annotations

import base64
import json
from typing import Any

import yaml

from twin.cloud.greengrass import component
from twin.cloud.greengrass.component import Record
from twin.cloud.greengrass.page import page
from twin.cloud.greengrass.recipe import Recipe
from twin.cloud.greengrass.request_model import read_request
from twin.cloud.greengrass.resolution import resolve_component_candidates
from twin.cloud.greengrass.routing import Answer, Call, Route
from twin.cloud.greengrass.service_error import InvalidRequestError

_DEPLOYABLE = {"componentState": "DEPLOYABLE", "message": "NONE", "errors": {}, "vendorGuidance": "ACTIVE"}


async def _create(call: Call) -> Answer:
    record = await component.create_component_version(read_request("CreateComponentVersion", call.body))
    summary = {key: record[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp")}
    return 201, {**summary, "status": _DEPLOYABLE}


async def _describe(call: Call) -> Answer:
    record = component.component_version(call.names[0])
    return 200, {
        **{key: record[key] for key in ("arn", "componentName", "componentVersion", "creationTimestamp", "tags")},
        "publisher": record["recipe"].get("ComponentPublisher"),
        "description": record["recipe"].get("ComponentDescription"),
        "status": _DEPLOYABLE,
        "platforms": _platforms(record["recipe"]),
    }


async def _get(call: Call) -> Answer:
    record = component.component_version(call.names[0])
    output = call.query.get("recipeOutputFormat", "JSON")
    if output not in ("JSON", "YAML"):
        raise InvalidRequestError([("recipeOutputFormat", f"must be JSON or YAML, got {output!r}")])
    recipe = record["recipe"]
    text = json.dumps(recipe) if output == "JSON" else yaml.safe_dump(recipe, sort_keys=False)
    encoded = base64.b64encode(text.encode()).decode()
    return 200, {"recipeOutputFormat": output, "recipe": encoded, "tags": record["tags"]}


async def _delete(call: Call) -> Answer:
    component.delete_component_version(call.names[0])
    return 204, None


async def _list(call: Call) -> Answer:
    # The twin has no components of AWS or of the community.
    private = call.query.get("scope", "PRIVATE") == "PRIVATE"
    by_name: dict[str, list[Record]] = {}
    for record in component.COMPONENTS.values() if private else ():
        by_name.setdefault(record["componentName"], []).append(record)
    summaries = [_summary(name, component.newest_first(records)[0]) for name, records in sorted(by_name.items())]
    return 200, page("components", summaries, call.query)


async def _list_versions(call: Call) -> Answer:
    name = call.names[0].rsplit(":", 1)[-1]
    members = ("componentName", "componentVersion", "arn")
    versions = [{key: record[key] for key in members} for record in component.versions_of(name)]
    return 200, page("componentVersions", versions, call.query)


async def _resolve(call: Call) -> Answer:
    return 200, resolve_component_candidates(read_request("ResolveComponentCandidates", call.body))


def _summary(name: str, latest: Record) -> dict[str, Any]:
    return {
        "arn": component.component_arn(name),
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
    ("POST", "/greengrass/v2/createComponentVersion", _create),
    ("POST", "/greengrass/v2/resolveComponentCandidates", _resolve),
    ("GET", _COMPONENTS, _list),
    ("GET", _COMPONENTS + "/(arn:[^/]+)/versions", _list_versions),
    ("GET", _COMPONENTS + "/(arn:[^/]+)/metadata", _describe),
    ("GET", _COMPONENTS + "/(arn:[^/]+)", _get),
    ("DELETE", _COMPONENTS + "/(arn:[^/]+)", _delete),
]
