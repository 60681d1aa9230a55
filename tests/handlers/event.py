"""Events for the handlers, made from `tests/events/*.json`."""

import json
from pathlib import Path
from typing import Any

EVENTS = Path(__file__).resolve().parents[1] / "events"


class Context:
    """The Lambda context of an invocation.

    Args:
        seconds: What is left of the function's time.
        request_id: Of the invocation: the same for an event that Lambda delivers again.
    """

    def __init__(self, seconds: float = 300, request_id: str = "i-1") -> None:
        self.aws_request_id = request_id
        self._milliseconds = int(seconds * 1000)

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


def create(capability: str, **changes: Any) -> dict[str, Any]:
    """A Create event; a change to None takes the property away."""
    event: dict[str, Any] = json.loads((EVENTS / f"{capability}.json").read_text())
    event["ResourceProperties"] = _changed(event["ResourceProperties"], changes)
    return event


def update(capability: str, physical_id: str, old: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """An Update event of the resource `physical_id`; `old` changes the properties before it."""
    event = create(capability, **changes)
    before = create(capability, **(old or {}))["ResourceProperties"]
    return {**event, "RequestType": "Update", "PhysicalResourceId": physical_id, "OldResourceProperties": before}


def delete(capability: str, physical_id: str, **changes: Any) -> dict[str, Any]:
    """A Delete event of the resource `physical_id`."""
    return {**create(capability, **changes), "RequestType": "Delete", "PhysicalResourceId": physical_id}


def poll(event: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """The event of `is_complete`: that of `on_event` with its answer in it."""
    return {**event, **answer}


def _changed(properties: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = {**properties, **changes}
    return {name: value for name, value in merged.items() if value is not None}
