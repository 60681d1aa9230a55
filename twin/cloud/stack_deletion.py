"""DeleteStack during another operation: that one is stopped first, and what a handler began is known and deleted.

As on AWS, a custom resource whose creation is cancelled gets its Delete with an id that CloudFormation made up; a
handler finds what it began by the properties. Other than on AWS, the Delete comes after the call that was under way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Any

from ministack.core.responses import now_iso
from ministack.services import cloudformation, stepfunctions
from ministack.services.cloudformation import custom_resource, stacks, wait_conditions

from twin.clock import CLOCK
from twin.cloud.ministack.patches import patch, require

require("services.stepfunctions._stop_execution", why="executions of a deleted stack are stopped", signature="(data)")

FIRST_S = 0.5
"""The shortest pause before a state machine asks again: a question costs two function calls."""

SHARE = 0.25
"""Of the time since the first pause."""


class QuickWaits:
    """Pauses of state machines' executions, each of which has a thread of its own.

    A custom resource waits by retrying one call at a fixed interval, some seconds, which suits work that takes
    minutes on AWS. Here the same work takes a second. A retry comes after a quarter of the time that the execution has
    been retrying, at most after its own interval: a short wait ends early, and a long one loses few of its retries.

    Args:
        clock: Seconds, ever rising.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: weakref.WeakKeyDictionary[threading.Thread, float] = weakref.WeakKeyDictionary()
        self._waiting = threading.local()

    def pause(self, sleep: Callable[[float], None], seconds: float) -> None:
        """Pause before a retry, or for a Wait state as long as it says, in the twin's time.

        Args:
            sleep: The pause as the state machine says, s.
            seconds: What it says.
        """
        if not getattr(self._waiting, "exactly", False):
            now = self._clock()
            began = self._began.setdefault(threading.current_thread(), now)
            seconds = min(seconds, max(FIRST_S, SHARE * (now - began)))
            sleep(max(min(seconds, FIRST_S), CLOCK.real(seconds)))
        else:
            sleep(CLOCK.real(seconds))

    def exactly(self, wait_state: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Run a Wait state: its time is part of what the state machine does."""
        self._waiting.exactly = True
        try:
            return wait_state(*arguments, **named)
        finally:
            self._waiting.exactly = False


_waits = QuickWaits()


class _StoppedError(BaseException):
    """Leaves an execution's thread, past every Catch of its definition."""


class _Execution:
    """A running execution: whether it shall stop, and whether its thread has ended."""

    def __init__(self) -> None:
        self.stop, self.ended = threading.Event(), threading.Event()


_running: dict[str, _Execution] = {}
_own: contextvars.ContextVar[_Execution | None] = contextvars.ContextVar("execution", default=None)


@patch(
    "services.stepfunctions._run_execution",
    why="an execution that is stopped ends before its next call, not after its pause",
    signature="(exec_arn)",
)
def _run_execution(run: Callable[[str], None], arn: str) -> None:
    execution = _running[arn] = _Execution()
    _own.set(execution)
    try:
        run(arn)
    except _StoppedError:
        pass
    finally:
        _running.pop(arn, None)
        execution.ended.set()


def stop_executions(told: str, limit_s: float) -> None:
    """Stop the executions whose input holds a text, and wait until what they are doing has ended; on a worker thread.

    Args:
        told: Such as a stack's ARN.
        limit_s: Longest wait.
    """
    deadline = time.monotonic() + limit_s
    for arn, record in list(stepfunctions._executions.items()):
        execution = _running.get(arn)
        if execution is None or told not in str(record.get("input", "")):
            continue
        execution.stop.set()
        stepfunctions._stop_execution({"executionArn": arn, "cause": "the stack is being deleted"})
        execution.ended.wait(max(0.0, deadline - time.monotonic()))


@patch("services.stepfunctions._scaled_sleep", why="retries come sooner at first", signature="(seconds)")
def _pause(sleep: Callable[[float], None], seconds: float) -> None:
    execution = _own.get()
    if execution is None:
        _waits.pause(sleep, seconds)
        return

    def sleep_until_stopped(seconds: float) -> None:
        execution.stop.wait(seconds)

    _waits.pause(sleep_until_stopped, seconds)
    if execution.stop.is_set():
        raise _StoppedError


@patch(
    "services.stepfunctions._execute_wait",
    why="the time of a Wait state is kept",
    signature="(state_def, raw_input, ctx=None)",
)
def _execute_wait(wait_state: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    return _waits.exactly(wait_state, *arguments, **named)


logger = logging.getLogger("twin.stack_deletion")

CANCELLED = "Resource creation cancelled"
STOP_LIMIT_S = 60.0
"""A handler's call that is under way has so long to end."""

require(
    "services.cloudformation.wait_conditions.signal_resource",
    why="wait conditions of a stack that is deleted fail",
    signature="(stack_id, logical_id, unique_id, status)",
)
require(
    "services.cloudformation.stacks._provision_keeping_seed",
    why="creations are told from deletions",
    signature="(*args)",
)

_operations: dict[str, asyncio.Event] = {}
"""By stack id, while it is created or updated: set once that has ended."""

_deletions: dict[str, asyncio.Event] = {}
_cancelled: set[str] = set()
_tokens: defaultdict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
"""By stack id: the custom resources whose answer is awaited, stack name and logical id by token."""

_failures: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("failures", default=None)
"""Logical ids of what the operation under way could not delete."""

_asking: contextvars.ContextVar[tuple[str, str, str]] = contextvars.ContextVar("asking", default=("", "", ""))


@patch(
    "services.cloudformation.stacks._deploy_stack_async",
    "services.cloudformation.handlers._deploy_stack_async",
    "services.cloudformation.changesets._deploy_stack_async",
    why="a delete knows which operation it must stop",
    signature="async (stack_name, stack_id, template, param_values, disable_rollback, tags, is_update=False, "
    "previous_stack=None, retain_except_on_create=False, imports=None)",
)
async def _deploy_stack(
    deploy: Callable[..., Awaitable[None]], stack_name: str, stack_id: str, *arguments: Any, **named: Any
) -> None:
    ended = _operations[stack_id] = asyncio.Event()
    _failures.set([])
    try:
        await deploy(stack_name, stack_id, *arguments, **named)
    finally:
        _operations.pop(stack_id, None)
        if stack_id in _cancelled and (stack := cloudformation._stacks.get(stack_name)):
            # At once, or somebody sees the end of the rollback and takes it for that of the delete.
            stack["StackStatus"] = "DELETE_IN_PROGRESS"
        ended.set()


@patch(
    "services.cloudformation.stacks._delete_stack_async",
    "services.cloudformation.handlers._delete_stack_async",
    why="a delete stops the operation that is under way; one of a stack that is being deleted changes nothing",
    signature="async (stack_name, stack_id, retain_resources=(), force=False)",
)
async def _delete_stack(
    delete: Callable[..., Awaitable[None]], stack_name: str, stack_id: str, *arguments: Any, **named: Any
) -> None:
    if stack_id in _deletions:
        await _deletions[stack_id].wait()
        return
    deleted = _deletions[stack_id] = asyncio.Event()
    try:
        if ended := _operations.get(stack_id):
            _cancel(stack_name, stack_id)
            await ended.wait()
            _cancelled.discard(stack_id)
        _take_back(stack_name)
        _failures.set([])
        await delete(stack_name, stack_id, *arguments, **named)
    finally:
        _cancelled.discard(stack_id)
        del _deletions[stack_id]
        deleted.set()


def _cancel(stack_name: str, stack_id: str) -> None:
    logger.warning("stack %s is to be deleted: its operation is stopped", stack_name)
    _cancelled.add(stack_id)
    cloudformation._stacks[stack_name]["_cancel_requested"] = True
    for token in list(_tokens.get(stack_id, ())):
        _answer(token, stack_id)
    for waiting, logical_id in list(wait_conditions._waiting):
        if waiting == stack_id:
            wait_conditions.signal_resource(stack_id, logical_id, uuid.uuid4().hex, "FAILURE")


def _answer(token: str, stack_id: str) -> None:
    """Fail a custom resource in its handler's place."""
    stack_name, logical_id = _tokens[stack_id][token]
    answer = {"Status": "FAILED", "Reason": CANCELLED, "StackId": stack_id, "LogicalResourceId": logical_id}
    custom_resource.deliver_response(token, {**answer, "PhysicalResourceId": _made_up(stack_name, logical_id)})


def _take_back(stack_name: str) -> None:
    """What a rollback could not delete is tried again; MiniStack keeps it apart, and no delete would reach it."""
    stack = cloudformation._stacks.get(stack_name) or {}
    for logical_id, record in (stack.pop("_rollback_failed", None) or {}).items():
        if "RevertFrom" not in record:
            stack.setdefault("_resources", {}).setdefault(
                logical_id, {**record, "LogicalResourceId": logical_id, "ResourceStatus": "DELETE_FAILED"}
            )


def _made_up(stack_name: str, logical_id: str) -> str:
    return f"{stack_name}-{logical_id}-{uuid.uuid4().hex[:12].upper()}"


def _refuse(stack_id: str) -> None:
    if stack_id in _cancelled:
        raise RuntimeError(CANCELLED)


@patch(
    "services.cloudformation.stacks.run_reentrant",
    why="a custom resource is one of its stack's before its handler begins: what a kill interrupts can be deleted",
    signature="async (fn, *args, thread_name='ministack-reentrant')",
)
async def _run_reentrant(
    run: Callable[..., Awaitable[Any]], function: Callable[..., Any], *arguments: Any, **named: Any
) -> Any:
    if function is not stacks._provision_keeping_seed:
        return await run(function, *arguments, **named)
    kind, logical_id, properties, stack_name = arguments
    stack = cloudformation._stacks.get(stack_name) or {}
    _refuse(str(stack.get("StackId")))
    resources = stack.get("_resources", {})
    if not kind.startswith(("Custom::", "AWS::CloudFormation::CustomResource")) or logical_id in resources:
        return await run(function, *arguments, **named)
    resources[logical_id] = {
        "PhysicalResourceId": _made_up(stack_name, logical_id),
        "ResourceType": kind,
        "ResourceStatus": "CREATE_IN_PROGRESS",
        "LogicalResourceId": logical_id,
        "Properties": properties,
        "Attributes": {},
        "Timestamp": now_iso(),
    }
    try:
        return await run(function, *arguments, **named)
    except BaseException:
        # It was deleted by its handler's own answer, and is no part of the stack.
        resources.pop(logical_id, None)
        raise


@patch(
    "services.cloudformation.stacks._provision_resource",
    why="nothing is created any more in a stack that is to be deleted",
    signature="(resource_type, logical_id, props, stack_name)",
)
def _provision(provision: Callable[..., Any], kind: str, logical_id: str, properties: Any, stack_name: str) -> Any:
    _refuse(str((cloudformation._stacks.get(stack_name) or {}).get("StackId")))
    return provision(kind, logical_id, properties, stack_name)


require("services.cloudformation.stacks._with_dependencies", why="what is needed is kept", signature=(
    "(logical_ids, res_defs, remaining)"
))  # fmt: skip


@patch(
    "services.cloudformation.stacks._delete_resource",
    why="what a resource needs that could not be deleted is kept: its next Delete needs its function",
    signature="(resource_type, physical_id, props, stack_name=None, logical_id=None)",
)
def _delete_resource(
    delete: Callable[..., None],
    kind: str,
    physical_id: str,
    properties: Any,
    stack_name: str | None = None,
    logical_id: str | None = None,
) -> None:
    failures = _failures.get()
    if failures is None or logical_id is None:
        delete(kind, physical_id, properties, stack_name, logical_id)
        return
    template = ((cloudformation._stacks.get(stack_name) or {}).get("_template") or {}).get("Resources") or {}
    for failed in failures:
        if logical_id in stacks._with_dependencies([failed], template, set(template)):
            raise RuntimeError(f"kept, because {failed} needs it and could not be deleted")
    try:
        delete(kind, physical_id, properties, stack_name, logical_id)
    except Exception:
        failures.append(logical_id)
        raise


@patch(
    "services.cloudformation.custom_resource.register_token",
    why="the answer that a stack waits for can be given in its handler's place",
    signature="(token)",
)
def _register_token(register: Callable[[str], Any], token: str) -> Any:
    stack_name, stack_id, logical_id = _asking.get()
    if not stack_id:
        return register(token)
    _tokens[stack_id][token] = (stack_name, logical_id)
    registered = register(token)
    # A delete that came meanwhile has not seen it.
    if stack_id in _cancelled:
        _answer(token, stack_id)
    return registered


@patch(
    "services.cloudformation.custom_resource.invoke_custom_resource",
    why="a creation or update of a stack that is to be deleted is not begun, and can be stopped",
    signature="(request_type, logical_id, props, stack_name, stack_id, resource_type, physical_id=None, "
    "old_props=None)",
)
def _invoke(
    invoke: Callable[..., Any],
    request_type: str,
    logical_id: str,
    properties: dict[str, Any],
    stack_name: str,
    stack_id: str,
    *arguments: Any,
    **named: Any,
) -> Any:
    event = (request_type, logical_id, properties, stack_name, stack_id)
    if request_type == "Delete":
        return invoke(*event, *arguments, **named)
    token = _asking.set((stack_name, stack_id, logical_id))
    try:
        _refuse(stack_id)
        return invoke(*event, *arguments, **named)
    except RuntimeError:
        if stack_id in _cancelled:
            # What still waits for it must not go on beside the Delete.
            stop_executions(stack_id, STOP_LIMIT_S)
        raise
    finally:
        _asking.reset(token)
        _tokens.pop(stack_id, None)
