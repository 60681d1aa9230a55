"""A custom resource that fails to be created is deleted again, as CloudFormation does when it rolls the stack back.

MiniStack deletes only what was created. A custom resource that answered with a failure has begun its work all the same
(a job, a thousand things), and its Delete is what takes that away.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ministack.services.cloudformation import custom_resource

from twin.cloud.registry import Settings

logger = logging.getLogger("twin.failed_custom_resources")

Invoke = Callable[..., tuple[str, dict[str, Any]]]
Deliver = Callable[[str, dict[str, Any]], bool]


class FailedCreates:
    """Remembers the physical ids in answers of failure until the invocation that waits for them has ended."""

    def __init__(self) -> None:
        self._answered: dict[tuple[str, str], str] = {}

    def noting(self, deliver: Deliver) -> Deliver:
        """Wrap what takes a handler's answer in."""

        def take(token: str, response: dict[str, Any]) -> bool:
            if response.get("Status") == "FAILED" and response.get("PhysicalResourceId"):
                key = (str(response.get("StackId")), str(response.get("LogicalResourceId")))
                self._answered[key] = response["PhysicalResourceId"]
            return deliver(token, response)

        return take

    def deleting(self, invoke: Invoke) -> Invoke:
        """Wrap the call of a handler, which runs on a worker thread."""

        def call(
            request_type: str,
            logical_id: str,
            props: dict[str, Any],
            stack_name: str,
            stack_id: str,
            resource_type: str,
            *arguments: Any,
            **named: Any,
        ) -> tuple[str, dict[str, Any]]:
            event = (logical_id, props, stack_name, stack_id, resource_type)
            try:
                return invoke(request_type, *event, *arguments, **named)
            except RuntimeError:
                physical_id = self._answered.pop((stack_id, logical_id), None)
                if request_type == "Create" and physical_id:
                    _delete(invoke, event, physical_id)
                raise

        return call


def _delete(invoke: Invoke, event: tuple[Any, ...], physical_id: str) -> None:
    """Send the Delete; one that fails is logged, for the first error is the stack's."""
    try:
        invoke("Delete", *event, physical_id=physical_id)
    except (RuntimeError, TimeoutError, ValueError) as exc:
        logger.warning("%s, which could not be created, could not be deleted either: %s", physical_id, exc)


def install(settings: Settings) -> None:  # noqa: ARG001 - every extension is installed alike
    """Put it around MiniStack's custom resources."""
    failed = FailedCreates()
    custom_resource.deliver_response = failed.noting(custom_resource.deliver_response)
    custom_resource.invoke_custom_resource = failed.deleting(custom_resource.invoke_custom_resource)
