"""Stack operations that a killed cloud left half way: they get the failed state that lets the next command go on."""

from __future__ import annotations

import logging
from typing import Any

from ministack.services import cloudformation

from twin.cloud.registry import Settings, register_background

logger = logging.getLogger("twin.interrupted_stacks")

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
