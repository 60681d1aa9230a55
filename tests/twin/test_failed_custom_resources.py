"""Custom resources that could not be created."""

from functools import partial
from typing import Any

import pytest

from twin.cloud.stack_operations import deliver_response, invoke_custom_resource

EVENT = ("Job", {"ServiceToken": "arn"}, "stack", "stack-id", "Custom::Job")


class Handler:
    """Answers a Create with a failure that names a physical id; notes what it is asked."""

    def __init__(self, physical_id: str = "job-1", *, delete_fails: bool = False) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self._physical_id = physical_id
        self._delete_fails = delete_fails
        self._deliver = partial(deliver_response, lambda token, response: True)
        self.invoke = partial(invoke_custom_resource, self._answer)

    def _answer(self, request_type: str, *event: Any, physical_id: str | None = None) -> tuple[str, dict[str, Any]]:
        self.asked.append((request_type, physical_id))
        if request_type == "Delete" and not self._delete_fails:
            return physical_id or "", {}
        self._deliver(
            "token",
            {
                "Status": "FAILED",
                "PhysicalResourceId": self._physical_id,
                "StackId": "stack-id",
                "LogicalResourceId": "Job",
            },
        )
        raise RuntimeError(f"{request_type} failed")


def test_a_failed_create_is_deleted_by_its_physical_id_and_its_error_stays() -> None:
    handler = Handler()

    with pytest.raises(RuntimeError, match="Create failed"):
        handler.invoke("Create", *EVENT)

    assert handler.asked == [("Create", None), ("Delete", "job-1")]


@pytest.mark.parametrize("handler", [Handler(delete_fails=True), Handler(physical_id="")])
def test_the_first_error_counts_whatever_comes_of_the_delete(handler: Handler) -> None:
    with pytest.raises(RuntimeError, match="Create failed"):
        handler.invoke("Create", *EVENT)


def test_a_failed_update_is_not_deleted() -> None:
    handler = Handler()

    with pytest.raises(RuntimeError, match="Update failed"):
        handler.invoke("Update", *EVENT, physical_id="job-0")

    assert handler.asked == [("Update", "job-0")]
