"""The demo's steps with stand-ins for the twin, the command line and the devices: order, what runs beside, failures."""

from __future__ import annotations

import errno
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.endings import INTERRUPTING, INTERRUPTS
from config.names import Names
from tools import demo, demo_report, predictions
from tools.demo import Beside, repeated_if_the_twin_ends
from tools.offline_deploy import CdkError, DeploymentError
from tools.predictions import ClassifiedPicture, Prediction, PredictionError, next_picture
from twin import TwinError
from twin.state import PORT_NAMES, TwinState

LIMIT_S = 60
STEPS = ["twin", "synth", "bootstrap", "deploy", "device", "predict", "cut off", "destroy", "inventory"]
RIGHT = Prediction(index=1, label="2", expected="2", probability=0.9, latency_ms=0.3)


def state_of(home: Path, pid: int) -> TwinState:
    ports: dict[str, Any] = dict.fromkeys(PORT_NAMES, 1)
    return TwinState(home=home, pid=pid, started=1.0, region="r", account="0" * 12, secret="s", **ports)


@dataclass
class World:
    """What the demo does, as it came; a test replaces what fails or waits."""

    home: Path
    pid: int = 1
    ended: bool = False
    did: list[str] = field(default_factory=list)
    actions: dict[str, Callable[..., Any]] = field(default_factory=dict)

    def do(self, what: str, *arguments: Any) -> Any:
        self.did.append(what)
        action = self.actions.get(what)
        return action(*arguments) if action else 1.0

    def start(self, *_: Any) -> TwinState:
        if self.ended:
            self.pid, self.ended = self.pid + 1, False
        return state_of(self.home, self.pid)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path / "twin")

    @dataclass(frozen=True)
    class Deploy:
        environment: Any
        out: Path
        stage: str
        on_line: Callable[[str], None]
        twin_has_ended: Callable[[], bool]
        twin_lacks: Callable[[], str]
        assembly = tmp_path

        def synth(self) -> float:
            return float(world.do("synth"))

        def bootstrap(self) -> float:
            return float(world.do("bootstrap", self.twin_has_ended))

        def deploy(self) -> float:
            return float(world.do("deploy"))

        def destroy(self) -> float:
            return float(world.do("destroy"))

        def wait_for_device(self, *_: Any, **__: Any) -> str:
            return "0123456789"

    class Site:
        def __init__(self, *_: Any) -> None:
            pass

        def prepare(self, stopped: threading.Event | None = None, on_status: Any = None) -> float:
            return float(world.do("prepare", stopped))

        def read_a_digit_cut_off(self, _on_status: Any) -> Prediction:
            world.do("read")
            return RIGHT

        def discard_half_made(self) -> None:
            world.do("discard")

    class Operator:
        def __init__(self, _state: Any) -> None:
            pass

        def __enter__(self) -> Operator:
            world.do("listen")
            return self

        def __exit__(self, *_: object) -> None:
            pass

        @contextmanager
        def listen(self, _topic: str) -> Iterator[queue.SimpleQueue[bytes]]:
            heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            heard.put(b'{"inference-description": "a photograph", "inference-results": []}')
            yield heard

    class HeldOut:
        def __init__(self, *_: Any) -> None:
            pass

        def pictures(self, _model: str) -> Iterator[Prediction]:
            world.do("predict")
            yield RIGHT

        def flowers(self) -> list[Prediction]:
            return [RIGHT]

        def scenes(self) -> list[Any]:
            return []

    monkeypatch.setattr(demo, "OfflineDeploy", Deploy)
    monkeypatch.setattr(demo, "Site", Site)
    monkeypatch.setattr(demo, "OperatorClient", Operator)
    monkeypatch.setattr(demo, "HeldOut", HeldOut)
    monkeypatch.setattr(demo, "precision_of", lambda _: 1.0)
    monkeypatch.setattr(demo, "forget", lambda _home: world.do("forget"))
    monkeypatch.setattr(demo, "load_state", lambda home: state_of(home, world.pid))
    monkeypatch.setattr(demo, "has_ended", lambda _home: world.ended)
    monkeypatch.setattr(demo, "lifecycle", SimpleNamespace(start=world.start))
    monkeypatch.setattr(demo, "inventory", SimpleNamespace(take=lambda _state: world.do("take") and {}))
    monkeypatch.setattr(demo_report, "downloads_of", lambda _state: [])
    monkeypatch.setattr(demo_report, "bill_as_dict", lambda _assembly: {})
    monkeypatch.setattr(demo_report, "as_page", lambda _report: "")
    return world


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in INTERRUPTING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def set_and(event: threading.Event, seconds: float) -> float:
    event.set()
    return seconds


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail


def test_the_steps_are_told_in_their_order_whatever_runs_beside(world: World, tmp_path: Path) -> None:
    report = demo.run(tmp_path)

    assert [step.name for step in report.steps] == STEPS
    assert report.image_classification == ClassifiedPicture("a photograph", [])


def test_bootstrap_runs_beside_synth_and_the_cores_preparation_beside_deploy(world: World, tmp_path: Path) -> None:
    bootstrapped, prepared = threading.Event(), threading.Event()
    world.actions = {
        "bootstrap": lambda *_: set_and(bootstrapped, 1.5),
        "synth": lambda *_: bootstrapped.wait(LIMIT_S),
        "prepare": lambda *_: set_and(prepared, 4.0),
        "deploy": lambda *_: prepared.wait(LIMIT_S),
    }

    report = demo.run(tmp_path)

    assert bootstrapped.is_set()
    assert prepared.is_set()
    words = {step.name: step.words for step in report.steps}
    assert words["bootstrap"] == "took 1.5 s beside synth"
    assert words["cut off"].endswith("a 2: 2; the core was made ready beside the steps before in 4.0 s")
    assert report.bootstrap_s == 1.5


@pytest.mark.parametrize(
    ("what", "error", "seen", "unseen"),
    [
        ("bootstrap", CdkError("no bucket"), "3/9 bootstrap", "4/9"),
        ("listen", TwinError("no certificate"), "4/9 deploy", "5/9"),
        ("prepare", DeploymentError("no components"), "7/9 cut off", "8/9"),
        ("prepare", TwinError("no thing"), "7/9 cut off", "8/9"),
    ],
)
def test_what_fails_beside_another_step_is_its_own_steps_error(
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    handlers: None,
    what: str,
    error: Exception,
    seen: str,
    unseen: str,
) -> None:
    world.actions[what] = failing(error)

    code = demo._demonstrate(tmp_path, tmp_path / "demo.json")

    said = capsys.readouterr().out
    assert code == 1
    assert said.index(seen) < said.index(str(error))
    assert unseen not in said
    assert world.did[-1] == "forget"


@pytest.mark.parametrize(("step", "beside"), [("synth", "bootstrap"), ("deploy", "prepare"), ("predict", "prepare")])
def test_an_interrupt_ends_what_runs_beside_before_the_clean_up(
    world: World, tmp_path: Path, handlers: None, step: str, beside: str
) -> None:
    begun = threading.Event()

    def work(stopped: Any) -> float:
        begun.set()
        ended = stopped.wait(LIMIT_S) if beside == "prepare" else until(stopped)
        # Impatience changes nothing: what it makes would be left.
        os.kill(os.getpid(), signal.SIGINT)
        world.did.append(f"{beside} stopped: {ended}")
        raise TwinError("stopped")

    def interrupted(*_: Any) -> None:
        assert begun.wait(LIMIT_S)
        raise KeyboardInterrupt

    world.actions = {beside: work, step: interrupted}

    code = demo._demonstrate(tmp_path, tmp_path / "demo.json")

    assert code == 130
    assert world.did[-2:] == [f"{beside} stopped: True", "forget"]


def until(condition: Callable[[], bool]) -> bool:
    pause = threading.Event()
    for _ in range(LIMIT_S * 100):
        if condition():
            return True
        pause.wait(0.01)
    return False


@pytest.mark.parametrize(
    ("what", "step"),
    [
        ("bootstrap", "synth"),
        ("bootstrap", "bootstrap"),
        ("prepare", "deploy"),
        ("prepare", "predict"),
        ("prepare", "prepare"),
        ("read", "read"),
    ],
)
def test_what_a_killed_twin_ended_beside_a_step_is_done_again(
    world: World, tmp_path: Path, what: str, step: str
) -> None:
    killed = threading.Event()

    def work(*_: Any) -> float:
        if not killed.is_set():
            world.ended = True
            killed.set()
            raise TwinError("nobody listens")
        return 1.0

    def killed_too(*_: Any) -> float:
        assert killed.wait(LIMIT_S)
        if world.ended and step == "predict":
            raise PredictionError("no answer")
        return 1.0

    world.actions[what] = work
    if step != what:
        world.actions[step] = killed_too

    report = demo.run(tmp_path)

    assert [each.name for each in report.steps] == STEPS
    assert world.did.count(what) == 2
    told = {each.name: each.words for each in report.steps}["bootstrap" if what == "bootstrap" else "cut off"]
    assert "after the twin's new start" in told
    assert "beside" not in told
    assert world.pid == 2
    assert world.did[-3:] == ["discard", "destroy", "take"]


def test_what_a_twin_killed_during_the_inventory_had_saved_last_is_destroyed_again(
    world: World, tmp_path: Path
) -> None:
    def killed(*_: Any) -> float:
        if world.pid == 1:
            world.ended = True
            raise TwinError("nobody listens")
        return 1.0

    world.actions["take"] = killed

    demo.run(tmp_path)

    assert world.did[-4:] == ["destroy", "take", "destroy", "take"]


def test_a_twin_that_nobody_killed_has_nothing_half_made(world: World, tmp_path: Path) -> None:
    demo.run(tmp_path)

    assert "discard" not in world.did


@pytest.mark.parametrize("number", INTERRUPTS)
def test_a_second_interrupt_does_not_end_the_clean_up_before_it_begins(
    world: World, tmp_path: Path, handlers: None, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    for each in INTERRUPTS:  # what runs in the background, or by nohup, ignores some
        signal.signal(each, signal.default_int_handler)
    told = list[str]()

    def press(text: str, *_: Any, **__: Any) -> None:
        told.append(text)
        if "interrupted" in text:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(demo.console, "print", press)
    world.actions["synth"] = lambda *_: os.kill(os.getpid(), number)

    try:
        code = demo._demonstrate(tmp_path, tmp_path / "demo.json")
    except KeyboardInterrupt:  # which would end pytest
        code = -1

    assert code == 130
    assert world.did[-1] == "forget"
    assert told[-1].startswith("ended in ")


def test_an_interrupt_while_work_beside_begins_stops_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()

    def work(stop: threading.Event, _on_status: Any) -> None:
        if stop.wait(LIMIT_S):
            stopped.set()

    class Thread(threading.Thread):
        def start(self) -> None:
            super().start()
            raise KeyboardInterrupt

    monkeypatch.setattr(demo.threading, "Thread", Thread)  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt), ExitStack() as block:
        Beside(tmp_path, work).begin_in(block)

    assert stopped.is_set()


def test_a_full_disk_is_told_in_words(
    world: World, tmp_path: Path, handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    world.actions["deploy"] = failing(OSError(errno.ENOSPC, "No space left on device", "out/demo"))

    assert demo._demonstrate(tmp_path, tmp_path / "demo.json") == 1
    assert "No space left on device: 'out/demo'\nlogs: " in capsys.readouterr().out
    assert world.did[-1] == "forget"


def test_what_only_ran_beside_a_killed_twin_is_told_without_a_new_start(
    tmp_path: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    since = state_of(tmp_path, world.pid)
    world.ended = True
    world.start()

    repeated_if_the_twin_ends(tmp_path, failing(TwinError("gone")), lambda: "again", since=since)

    assert capsys.readouterr().out == "the twin has ended; what it had begun beside the steps is done again\n"


def test_an_error_of_a_twin_that_runs_is_not_tried_again(tmp_path: Path, world: World) -> None:
    with pytest.raises(TwinError, match="refused"):
        repeated_if_the_twin_ends(tmp_path, failing(TwinError("refused")), lambda: pytest.fail("again"))


def test_a_twin_that_another_step_has_started_again_is_another_one(tmp_path: Path, world: World) -> None:
    since = state_of(tmp_path, world.pid)
    world.ended = True
    world.start()

    assert repeated_if_the_twin_ends(tmp_path, failing(TwinError("gone")), lambda: "again", since=since) == "again"


def test_work_beside_tells_what_it_is_at_once_somebody_waits(tmp_path: Path, world: World) -> None:
    waited, told = threading.Event(), list[str]()

    def work(_stopped: threading.Event, on_status: Callable[[str], None]) -> str:
        on_status("unheard")
        assert waited.wait(LIMIT_S)
        on_status("heard")
        return "done"

    def hear(text: str) -> None:
        told.append(text)

    with ExitStack() as block:
        beside = Beside(tmp_path, work).begin_in(block)
        beside._on_status = hear
        waited.set()

        assert beside.outcome(hear) == "done"

    assert told == ["heard"]


def test_a_photograph_comes_from_whoever_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    heard: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    heard.put(b'{"inference-description": "d", "inference-results": [1]}')

    assert next_picture(nothing, heard) == ClassifiedPicture("d", [1])  # type: ignore[list-item]
    monkeypatch.setattr(predictions, "ANSWER_LIMIT_S", 0.0)
    with pytest.raises(PredictionError, match="must come within 0 s"):
        next_picture(nothing, heard)


def test_requests_name_the_edge_server_so_that_no_other_device_answers() -> None:
    asked: list[dict[str, Any]] = []

    class Operator:
        def request(self, _topic: str, request: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            asked.append(request)
            return {"label": "x", "top_k": [{"probability": 1.0}], "latency_ms": 1.0, "objects": []}

    operator: Any = Operator()
    names = Names("twin")

    held_out = predictions.HeldOut(operator, names)
    list(held_out.pictures("digits"))
    held_out.flowers()
    held_out.scenes()

    assert len(asked) > 400
    assert {request["device"] for request in asked} == {names.edge_server}


def test_a_request_that_is_lost_with_its_device_is_sent_again() -> None:
    lost = {"digit-0", "iris-0", "scene-0"}

    class Operator:
        def request(self, _topic: str, request: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
            if request["request_id"] in lost:
                lost.remove(request["request_id"])
                raise TwinError("no answer")
            return {"label": "x", "top_k": [{"probability": 1.0}], "latency_ms": 1.0, "objects": []}

    operator: Any = Operator()
    held_out = predictions.HeldOut(operator, Names("twin"))

    next(held_out.pictures("digits"))
    held_out.flowers()
    held_out.scenes()

    assert lost == set()


def test_work_beside_that_does_not_end_is_not_waited_for_for_ever(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_OUTCOME_LIMIT_S", 0.1)

    def work(stopped: threading.Event, _on_status: Callable[[str], None]) -> None:
        assert stopped.wait(LIMIT_S)

    with ExitStack() as block, pytest.raises(DeploymentError, match=r"beside the steps must end within 0\.1 s"):
        Beside(tmp_path, work).begin_in(block).outcome(lambda _text: None)
