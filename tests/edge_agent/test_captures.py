import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import pytest

from edge_inference.agent import AgentError, Status, server
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.server import ClientCaptures


class SlowDisk:
    """Keeps captures when it is let; refuses the first ones."""

    def __init__(self, failures: int = 0) -> None:
        self.go = threading.Event()
        self.stored: list[str] = []
        self._failures = failures
        self._waiting: queue.SimpleQueue[tuple[str, Callable[[Exception | None], None]]] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()

    def keep(
        self,
        model: str,
        identifier: str,
        moment: datetime,
        record: Mapping[str, object],
        told: Callable[[Exception | None], None],
    ) -> None:
        self._waiting.put((identifier, told))

    def _write(self) -> None:
        while True:
            identifier, told = self._waiting.get()
            assert self.go.wait(30)
            if self._failures:
                self._failures -= 1
                told(OSError(28, "No space left on device"))
            else:
                self.stored.append(identifier)
                told(None)


@pytest.fixture
def disk() -> Iterator[SlowDisk]:
    made = SlowDisk(failures=1)
    yield made
    made.go.set()


def capture(capture_id: str = "", **values: Any) -> Any:
    return wire.CaptureDataRequest(model_name="m", capture_id=capture_id or str(uuid.uuid4()), **values)


def wait(captures: ClientCaptures, capture_id: str) -> int:
    deadline = time.monotonic() + 30
    while (outcome := captures.outcome(capture_id)) == wire.IN_PROGRESS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


def test_a_full_queue_refuses_and_a_failure_is_told_and_the_next_one_is_kept(disk: SlowDisk) -> None:
    captures = ClientCaptures(disk.keep, pending=2, limit_bytes=100)
    first, second, third = capture(), capture(), capture()

    captures.accept(first)
    captures.accept(second)
    with pytest.raises(AgentError, match="2 captures wait already") as caught:
        captures.accept(third)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert captures.outcome(first.capture_id) == wire.IN_PROGRESS
    disk.go.set()

    assert wait(captures, first.capture_id) == wire.FAILURE
    assert wait(captures, second.capture_id) == wire.SUCCESS
    with pytest.raises(AgentError) as unknown:
        captures.outcome(third.capture_id)
    assert unknown.value.status is Status.NOT_FOUND
    captures.accept(third)  # there is room again
    captures.close(30)
    assert disk.stored == [second.capture_id, third.capture_id]


def test_what_is_not_written_in_time_is_told_at_the_end(disk: SlowDisk, caplog: pytest.LogCaptureFixture) -> None:
    captures = ClientCaptures(disk.keep, pending=2, limit_bytes=100)
    captures.accept(capture())

    captures.close(0.01)

    assert "1 captures are lost: they could not be written" in caplog.text


def test_the_oldest_outcomes_are_forgotten_and_leave_no_trace(disk: SlowDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REMEMBERED", 2)
    captures = ClientCaptures(disk.keep, pending=3, limit_bytes=100)
    first, second, third, fourth = (capture() for _ in range(4))
    for each in (first, second, third):
        captures.accept(each)

    with pytest.raises(AgentError) as forgotten:
        captures.outcome(first.capture_id)
    assert forgotten.value.status is Status.NOT_FOUND
    disk.go.set()
    assert [wait(captures, each.capture_id) for each in (second, third)] == [wire.SUCCESS, wire.SUCCESS]
    captures.accept(fourth)  # one that is forgotten takes no room either
    assert wait(captures, fourth.capture_id) == wire.SUCCESS


def test_ids_are_compared_as_uuids() -> None:
    disk = SlowDisk()
    disk.go.set()
    captures = ClientCaptures(disk.keep, pending=4, limit_bytes=100)
    one = uuid.uuid4()

    captures.accept(capture(str(one)))

    with pytest.raises(AgentError) as caught:
        captures.accept(capture(one.hex.upper()))
    assert caught.value.status is Status.ALREADY_EXISTS
    captures.close(30)


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 4_000_000_000])
def test_a_time_that_is_none_is_out_of_range(seconds: int) -> None:
    captures = ClientCaptures(SlowDisk().keep, pending=4, limit_bytes=100)

    with pytest.raises(AgentError) as caught:
        captures.accept(capture(inference_timestamp=wire.Timestamp(seconds=seconds)))

    assert caught.value.status is Status.OUT_OF_RANGE
