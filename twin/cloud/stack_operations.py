"""How stack operations go: answered once they have ended, stopped by a delete, failures and kills cleaned up.

The CDK command line looks at a stack's state at once and then every five seconds. AWS answers before the operation has
begun, so each level of stacks costs up to five seconds of waiting for nothing; here most operations take less than one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from ministack.services import cloudformation, lambda_svc

from twin.cloud.ministack.patches import patch, require
from twin.cloud.ministack.registry import Response, register_background
from twin.cloud_process import Settings

logger = logging.getLogger("twin.stack_operations")

HOLD_S = 30.0
"""Longest wait, well below the minute after which AWS clients give a call up; the operation goes on after it, and the
caller looks again as with AWS."""

_LOOK_S = 0.02
_OPERATIONS = frozenset(("CreateStack", "UpdateStack", "DeleteStack", "ExecuteChangeSet"))
_NOT_BEGUN = "REVIEW_IN_PROGRESS"
_INCOMPLETE = (
    b"<StatusReason>[WARN] --include-property-values option can return incomplete ChangeSet data because: "
    b"the twin has no property values</StatusReason>"
)


def under_way(name: str) -> bool:
    """Whether an operation on a stack is under way.

    Args:
        name: The stack's name or ARN.
    """
    return any(
        name in (stack.get("StackName"), stack.get("StackId"))
        and str(stack.get("StackStatus", "")).endswith("_IN_PROGRESS")
        and stack["StackStatus"] != _NOT_BEGUN
        for stack in list(cloudformation._stacks.values())
    )


@patch(
    "app.SERVICE_HANDLERS[cloudformation]",
    why="the answers that the CDK command line waits for are held until the operation has ended",
    signature="async (method, path, headers, body, query_params)",
)
async def _answer_late(
    answer: Callable[..., Awaitable[Response]],
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    query: dict[str, list[str]],
) -> Response:
    response = await answer(method, path, headers, body, query)
    action, name = _asked(body, query)
    if response[0] < 400 and action in _OPERATIONS and name:
        await _hold(name)
    if response[0] == 200 and action == "DescribeChangeSet":
        return _told_incomplete(response)
    return response


def _told_incomplete(described: Response) -> Response:
    """A created change set's description as AWS marks one that may lack changes; what is asked for next has them all.

    MiniStack gives no property values, so the command line would load CloudFormation's whole specification, for most of
    a second, to compare the templates itself and ask again where they differ. Of a marked one it asks again at once.
    """
    status, headers, text = described
    content = text.encode() if isinstance(text, str) else text
    if b"<Status>CREATE_COMPLETE</Status>" in content:
        content = content.replace(b"<StatusReason></StatusReason>", _INCOMPLETE, 1)
    return status, headers, content


async def _hold(name: str) -> None:
    try:
        async with asyncio.timeout(HOLD_S):
            await asyncio.sleep(_LOOK_S)  # the operation begins in a task of its own
            while under_way(name):
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        return


def _asked(body: bytes, query: dict[str, list[str]]) -> tuple[str, str]:
    """Action and stack of a request in the query protocol; empty where it names none."""
    fields = {**query, **parse_qs(body.decode("utf-8", "replace"))}
    first = {key: value[0] if isinstance(value, list) else value for key, value in fields.items() if value}
    return first.get("Action", ""), first.get("StackName", "")


Invoke = Callable[..., tuple[str, dict[str, Any]]]

_failed_creates: dict[tuple[str, str], str] = {}
"""Physical ids in answers of failure, until the invocation that waits for them has ended."""


@patch(
    "services.cloudformation.custom_resource.deliver_response",
    why="what a custom resource that fails has made is known by its physical id",
    signature="(token, response)",
)
def deliver_response(deliver: Callable[..., bool], token: str, response: dict[str, Any]) -> bool:
    """Take a handler's answer in."""
    if response.get("Status") == "FAILED" and response.get("PhysicalResourceId"):
        key = (str(response.get("StackId")), str(response.get("LogicalResourceId")))
        _failed_creates[key] = response["PhysicalResourceId"]
    return deliver(token, response)


require(
    "services.lambda_svc._get_func_record_for_ref",
    why="a handler without code is no handler",
    signature="(function_ref)",
)


@patch(
    "services.cloudformation.custom_resource.invoke_custom_resource",
    why="a custom resource that fails to be created is deleted again, for it has begun its work; MiniStack deletes "
    "only what was created",
    signature="(request_type, logical_id, props, stack_name, stack_id, resource_type, physical_id=None, "
    "old_props=None)",
)
def invoke_custom_resource(
    invoke: Invoke,
    request_type: str,
    logical_id: str,
    props: dict[str, Any],
    stack_name: str,
    stack_id: str,
    resource_type: str,
    *arguments: Any,
    **named: Any,
) -> tuple[str, dict[str, Any]]:
    """Call a handler, on a worker thread."""
    event = (logical_id, props, stack_name, stack_id, resource_type)
    record, _configuration, function = lambda_svc._get_func_record_for_ref(str(props.get("ServiceToken", "")))
    if record and not record.get("code_zip"):
        # MiniStack would answer for it, and wait an hour for what the code should have said.
        raise RuntimeError(f"the code of {function} is lost: deploy its stack again")
    try:
        return invoke(request_type, *event, *arguments, **named)
    except RuntimeError:
        physical_id = _failed_creates.pop((stack_id, logical_id), None)
        if request_type == "Create" and physical_id:
            _delete(invoke, event, physical_id)
        raise


def _delete(invoke: Invoke, event: tuple[Any, ...], physical_id: str) -> None:
    """Send the Delete; one that fails is logged, for the first error is the stack's."""
    try:
        invoke("Delete", *event, physical_id=physical_id)
    except (RuntimeError, TimeoutError, ValueError) as exc:
        logger.warning("%s, which could not be created, could not be deleted either: %s", physical_id, exc)


_FAILED_STATES = {
    # In this state the CDK deletes a stack and creates it anew; of CREATE_FAILED it asks a terminal what to do.
    "CREATE_IN_PROGRESS": "ROLLBACK_FAILED",
    "ROLLBACK_IN_PROGRESS": "ROLLBACK_FAILED",
    "REVIEW_IN_PROGRESS": "REVIEW_IN_PROGRESS",
    "UPDATE_IN_PROGRESS": "UPDATE_FAILED",
    "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_IN_PROGRESS": "UPDATE_ROLLBACK_FAILED",
    "UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS": "UPDATE_ROLLBACK_COMPLETE",
    "DELETE_IN_PROGRESS": "DELETE_FAILED",
}
_REASON = "The twin's cloud stopped during the operation; deploy (after an update: cdk rollback first) or destroy again"


def fail_interrupted(stack: dict[str, Any]) -> bool:
    """Give a stack in a state that only a running operation can leave the failed state of that operation.

    Args:
        stack: MiniStack's record; changed in place.

    Returns:
        Whether it was changed.
    """
    status = stack.get("StackStatus", "")
    failed = _FAILED_STATES.get(status, status)
    if failed == status:
        return False
    stack["StackStatus"] = failed
    stack["StackStatusReason"] = _REASON
    for resource in (stack.get("_resources") or {}).values():
        state = str(resource.get("ResourceStatus", ""))
        if state.endswith("_IN_PROGRESS"):
            resource["ResourceStatus"] = state.replace("_IN_PROGRESS", "_FAILED")
    return True


async def _fail_all() -> None:
    for key, stack in list(cloudformation._stacks._data.items()):
        before = stack.get("StackStatus")
        if fail_interrupted(stack):
            logger.warning("stack %s was %s when the cloud stopped: now %s", key[-1], before, stack["StackStatus"])


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Look at the stacks once, right after the persisted state is loaded."""
    register_background("interrupted stacks", start=_fail_all)
