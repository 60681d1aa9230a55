import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_inference.agent import AgentError, Status
from edge_inference.agent import agent_pb2 as wire
from edge_inference.agent.captures import CaptureFolder, Captures

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class SlowSink:
    """Keeps captures when it is let; refuses the first ones."""

    def __init__(self, failures: int = 0) -> None:
        self.go = threading.Event()
        self.stored: list[str] = []
        self._failures = failures

    def store(self, model: str, capture_id: str, moment: datetime, record: dict[str, Any]) -> None:
        assert self.go.wait(10)
        if self._failures:
            self._failures -= 1
            raise OSError(28, "No space left on device")
        self.stored.append(capture_id)


@pytest.fixture
def sink() -> Iterator[SlowSink]:
    made = SlowSink(failures=1)
    yield made
    made.go.set()


def capture(capture_id: str = "", **values: Any) -> Any:
    return wire.CaptureDataRequest(model_name="m", capture_id=capture_id or str(uuid.uuid4()), **values)


def wait(captures: Captures, capture_id: str) -> int:
    deadline = time.monotonic() + 10
    while (outcome := captures.outcome(capture_id)) == wire.IN_PROGRESS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return outcome


def test_a_full_queue_refuses_and_a_failure_is_told_and_the_next_one_is_kept(sink: SlowSink) -> None:
    captures = Captures(sink, pending=1, limit_bytes=100)
    first, second, third = capture(), capture(), capture()

    captures.accept(first)
    deadline = time.monotonic() + 10
    while True:  # until the writer has taken the first one off the queue
        try:
            captures.accept(second)
            break
        except AgentError:
            assert time.monotonic() < deadline
    with pytest.raises(AgentError, match="1 captures wait already") as caught:
        captures.accept(third)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert captures.outcome(first.capture_id) == wire.IN_PROGRESS
    sink.go.set()

    assert wait(captures, first.capture_id) == wire.FAILURE
    assert wait(captures, second.capture_id) == wire.SUCCESS
    with pytest.raises(AgentError) as unknown:
        captures.outcome(third.capture_id)
    assert unknown.value.status is Status.NOT_FOUND
    captures.close(5)
    assert sink.stored == [second.capture_id]


def test_ids_are_compared_as_uuids() -> None:
    sink = SlowSink()
    sink.go.set()
    captures = Captures(sink, pending=4, limit_bytes=100)
    one = uuid.uuid4()

    captures.accept(capture(str(one)))

    with pytest.raises(AgentError) as caught:
        captures.accept(capture(one.hex.upper()))
    assert caught.value.status is Status.ALREADY_EXISTS
    captures.close(5)


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 4_000_000_000])
def test_a_time_that_is_none_is_out_of_range(seconds: int) -> None:
    captures = Captures(SlowSink(), pending=4, limit_bytes=100)

    with pytest.raises(AgentError) as caught:
        captures.accept(capture(inference_timestamp=wire.Timestamp(seconds=seconds)))

    assert caught.value.status is Status.OUT_OF_RANGE


def store(folder: CaptureFolder, number: int, size: int = 1000) -> str:
    capture_id = str(uuid.UUID(int=number))
    folder.store("m", capture_id, MOMENT, {"x": "y" * size})
    time.sleep(0.01)  # the file system's clock ticks slowly, and the oldest file goes first
    return capture_id


def stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.rglob("*") if path.is_file()}


def test_the_oldest_captures_make_room_after_a_restart_too(tmp_path: Path) -> None:
    first = CaptureFolder(tmp_path, limit_bytes=3100)
    names = [store(first, number) for number in range(3)]
    assert stems(tmp_path) == set(names)

    second = CaptureFolder(tmp_path, limit_bytes=3100)
    names += [store(second, 3), store(second, 4)]

    assert stems(tmp_path) == set(names[2:])
    assert second.dropped == 2
    with pytest.raises(ValueError, match="at most 3100 bytes"):
        store(second, 5, size=4000)
    assert stems(tmp_path) == set(names[2:])


def test_a_capture_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = CaptureFolder(tmp_path, limit_bytes=10_000)
    (tmp_path / "m").write_text("in the way")

    with pytest.raises(OSError, match="m"):
        store(folder, 1)

    assert stems(tmp_path) == {"m"}
