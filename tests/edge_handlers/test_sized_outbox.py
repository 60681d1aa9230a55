"""When a publication is given up."""

from typing import Any

import pytest

from edge_component.ipc import IpcError, RefusedError
from v1_handler.service import LITE_BYTES, REFUSALS, SizedOutbox


class Device:
    """Refuses what is large, and as many others as it is told."""

    def __init__(self) -> None:
        self.refused = 0

    def publish(self, topic: str, payload: bytes) -> Any:
        return self if len(payload) <= LITE_BYTES and not self.refused else Refused(self)

    def wait(self, timeout_s: float) -> bool:
        return True


class Refused:
    def __init__(self, device: Device) -> None:
        device.refused = max(device.refused - 1, 0)

    def wait(self, timeout_s: float) -> bool:
        raise IpcError("ServiceError")


@pytest.fixture
def device() -> Device:
    return Device()


def publisher(device: Device) -> Any:
    outbox = SizedOutbox()
    outbox.attach(device)
    return outbox._publisher


def outcome(out: Any, size: int) -> type | None:
    try:
        out.publish("t", b"x" * size).wait(0.1)
    except IpcError as exc:
        return type(exc)
    return None


def test_a_large_message_is_given_up_after_its_last_attempt(device: Device) -> None:
    out = publisher(device)

    outcomes = [outcome(out, LITE_BYTES + 1) for _ in range(REFUSALS + 1)]

    assert outcomes == [IpcError] * (REFUSALS - 1) + [RefusedError, IpcError]


def test_a_small_message_is_tried_for_as_long_as_it_takes(device: Device) -> None:
    out, device.refused = publisher(device), 3 * REFUSALS

    assert [outcome(out, 10) for _ in range(3 * REFUSALS)] == [IpcError] * 3 * REFUSALS
    assert outcome(out, 10) is None


def test_attempts_are_counted_anew_after_a_success(device: Device) -> None:
    out = publisher(device)

    first = [outcome(out, LITE_BYTES + 1) for _ in range(REFUSALS - 1)]
    between = outcome(out, 10)
    second = [outcome(out, LITE_BYTES + 1) for _ in range(REFUSALS)]

    assert between is None
    assert first + second[:-1] == [IpcError] * (2 * REFUSALS - 2)
    assert second[-1] is RefusedError


def test_what_others_are_refused_does_not_count_against_a_large_one(device: Device) -> None:
    out = publisher(device)
    device.refused = REFUSALS

    assert [outcome(out, 10) for _ in range(REFUSALS)] == [IpcError] * REFUSALS
    assert outcome(out, LITE_BYTES + 1) is IpcError


def test_without_a_connection_there_is_nothing_to_publish_by() -> None:
    outbox = SizedOutbox()

    outbox.attach(None)

    assert not outbox.connected
