"""The deployment operations of the Greengrass API."""

from __future__ import annotations

from typing import Any

from twin.cloud.greengrass import deployment
from twin.cloud.greengrass.deployment import Record
from twin.cloud.greengrass.page import page
from twin.cloud.greengrass.request_model import read_request
from twin.cloud.greengrass.routing import Answer, Call, Route
from twin.cloud.greengrass.service_error import InvalidRequestError

_SUMMARY = (
    "targetArn",
    "revisionId",
    "deploymentId",
    "deploymentName",
    "creationTimestamp",
    "isLatestForTarget",
    "parentTargetArn",
)
_DETAIL = (*_SUMMARY, "iotJobId", "iotJobArn", "components", "deploymentPolicies", "iotJobConfiguration", "tags")


async def _create(call: Call) -> Answer:
    record = await deployment.create_deployment(read_request("CreateDeployment", call.body))
    return 201, {key: record[key] for key in ("deploymentId", "iotJobId", "iotJobArn")}


async def _get(call: Call) -> Answer:
    return 200, _view(deployment.find_deployment(call.names[0]), _DETAIL)


async def _cancel(call: Call) -> Answer:
    await deployment.cancel_deployment(call.names[0])
    return 200, {"message": "SUCCESS"}


async def _delete(call: Call) -> Answer:
    await deployment.delete_deployment(call.names[0])
    return 204, None


async def _list(call: Call) -> Answer:
    target, parent = call.query.get("targetArn"), call.query.get("parentTargetArn")
    history = call.query.get("historyFilter", "LATEST_ONLY")
    if history not in ("ALL", "LATEST_ONLY"):
        raise InvalidRequestError([("historyFilter", f"must be ALL or LATEST_ONLY, got {history!r}")])
    found = [
        record
        for record in deployment.DEPLOYMENTS.values()
        if target in (None, record["targetArn"])
        and parent in (None, record["parentTargetArn"])
        and (history == "ALL" or record["isLatestForTarget"])
    ]
    found.sort(key=lambda record: -record["creationTimestamp"])
    return 200, page("deployments", [_view(record, _SUMMARY) for record in found], call.query)


def _view(record: Record, members: tuple[str, ...]) -> dict[str, Any]:
    return {
        **{key: record[key] for key in members},
        "deploymentStatus": deployment.deployment_status(record),
    }


_DEPLOYMENTS = "/greengrass/v2/deployments"

ROUTES: list[Route] = [
    ("POST", _DEPLOYMENTS, _create),
    ("GET", _DEPLOYMENTS, _list),
    ("GET", _DEPLOYMENTS + "/([^/]+)", _get),
    ("POST", _DEPLOYMENTS + "/([^/]+)/cancel", _cancel),
    ("DELETE", _DEPLOYMENTS + "/([^/]+)", _delete),
]
