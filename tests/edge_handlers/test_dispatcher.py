"""When a function's process is started, started again, and ended."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.edge.publications import Pauses
from v1_handler import dispatcher as dispatcher_module
from v1_handler.dispatcher import Dispatcher
from v1_handler.function_process import Folders, FunctionEndedError
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
