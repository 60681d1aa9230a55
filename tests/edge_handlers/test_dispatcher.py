"""When a function's process is started, started again, and ended."""

import socket
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.edge.publications import Pauses
from v1_handler import child
from v1_handler import dispatcher as dispatcher_module
from v1_handler.channel import MESSAGE_BYTES, Channel, ChannelClosedError
from v1_handler.dispatcher import Dispatcher, Folders, FunctionEndedError, FunctionError, FunctionProcess
from v1_handler.settings import parse

FOLDERS = Folders(Path("/f"), Path("/d"), Path("/s"), Path("/c"))


class FakeProcess:
    """A function's process without one: `cannot_start` of them end while they import, the others are ready."""

    cannot_start = 0

    def __init__(self, *_: object) -> None:
        self.ready = self.running = True
        self.stopped = False
        self.events: list[Mapping[str, Any]] = []
        self.ends = type(self).cannot_start > 0
        type(self).cannot_start -= self.ends

    def wait_ready(self, timeout_s: float) -> bool:
        if self.ends:
            self.ready = self.running = False
            raise FunctionEndedError("the function cannot be imported: ImportError")
        return True

    def invoke(self, event: Mapping[str, Any], timeout_s: float) -> None:
        self.events.append(event)

    def stop(self) -> None:
        self.running, self.stopped = False, True


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dispatcher]:
    monkeypatch.setattr(dispatcher_module, "FunctionProcess", FakeProcess)
    monkeypatch.setattr(dispatcher_module, "POLL_S", 0.001)
    monkeypatch.setattr(FakeProcess, "cannot_start", 0)
    given = {"name": "probe", "handler": "probe.handler"}
    return lambda **changes: Dispatcher(parse({**given, **changes}), FOLDERS, lambda *_: None)


def process(made: Dispatcher) -> Any:
    return made._process


def step_until(made: Dispatcher, met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not met():
        assert time.monotonic() < deadline
        made._step()


def test_pauses_between_starts_begin_anew_once_a_pinned_function_is_ready(make: Callable[..., Dispatcher]) -> None:
    made = make(pinned=True)
    made._restart = pauses = Pauses()  # type: ignore[assignment]
    FakeProcess.cannot_start = 2
    step_until(made, lambda: process(made) is not None and not process(made).ends)
    step_until(made, lambda: len(pauses.asked) == 2)

    process(made).running = False  # it ends by itself, much later
    step_until(made, lambda: len(pauses.asked) == 3)

    assert pauses.asked == [1, 2, 1]


def test_a_function_is_idle_since_its_last_event_and_not_since_its_start(make: Callable[..., Dispatcher]) -> None:
    made = make(idleSeconds=30)
    made.submit("t", b"{}")
    made._step()
    first = process(made)

    made._used_at -= 29
    made.submit("t", b"{}")
    made._step()
    made._used_at -= 29
    made._step()
    assert (first.stopped, len(first.events)) == (False, 2)

    made._used_at -= 2
    made._step()
    assert (first.stopped, process(made)) == (True, None)


def test_a_pinned_function_is_never_idle(make: Callable[..., Dispatcher]) -> None:
    made = make(pinned=True, idleSeconds=30)
    made._step()

    made._used_at -= 1000
    made._step()

    assert not process(made).stopped


def test_events_that_wait_are_taken_over_with_new_settings_and_come_first(make: Callable[..., Dispatcher]) -> None:
    before, after = make(), make()
    before.submit("t", b"1")
    before.submit("t", b"2")
    before._stopped.set()
    after.submit("t", b"3")

    after._stopped.set()
    after.start(before)
    after._stopped.clear()
    for _ in range(3):
        after._step()

    assert [event["payload"] for event in process(after).events] == ["MQ==", "Mg==", "Mw=="]


def test_whatever_one_event_does_the_next_one_is_handled(
    make: Callable[..., Dispatcher], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: list[str] = []

    def invoke(self: FakeProcess, event: Mapping[str, Any], timeout_s: float) -> None:
        taken.append(event["payload"])
        if len(taken) == 1:
            raise KeyError("what the function's process sent is no message")

    monkeypatch.setattr(FakeProcess, "invoke", invoke)
    made = make()
    made.submit("t", b"1")
    made.submit("t", b"2")
    made.start()

    deadline = time.monotonic() + 30
    while made.counts.handled + made.counts.failed < 2:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    made.stop(30)

    assert taken == ["MQ==", "Mg=="]
    assert (made.counts.handled, made.counts.failed) == (1, 1)
    assert "event from t failed" in caplog.text


def test_a_process_whose_thread_the_system_refused_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(OSError, match="the system gives no thread"):
        FunctionProcess(tmp_path, [tmp_path], {}, lambda *_: None)

    assert not [each for each in psutil.Process().children() if str(tmp_path) in each.cmdline()]


def test_what_is_no_message_closes_the_channel() -> None:
    one, other = socket.socketpair()
    ours, theirs = Channel(one.detach()), Connection(other.detach())

    theirs.send_bytes(b"[" * 100_000)

    with pytest.raises(ChannelClosedError):
        ours.receive()
    ours.close()
    theirs.close()


def test_what_does_not_fit_into_a_message_costs_no_process() -> None:
    one, other = socket.socketpair()
    started = FunctionProcess.__new__(FunctionProcess)
    started._channel = Channel(one.detach())

    with pytest.raises(FunctionError, match="the event is too large: a message must have at most 1048576 bytes") as got:
        started.invoke({"event": 1, "payload": "x" * MESSAGE_BYTES}, 1)
    said = child._said(RuntimeError("x" * MESSAGE_BYTES))

    assert type(got.value) is FunctionError
    assert (said[:15], len(said)) == ("RuntimeError: x", 2000)
    started._channel.close()
    other.close()
