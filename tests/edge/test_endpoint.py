import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_component.ipc import Side
from edge_component.outbox import GROUP, Outbox
from edge_inference.camera import Camera
from edge_inference.endpoint import Endpoint
from edge_inference.heartbeat import Heartbeat
from edge_inference.messages import ErrorCode, Prediction, Request, RequestError, Score
from edge_inference.models.store import ModelStore
from edge_inference.settings import parse
from tests.edge.local_device import RESPONSE, configuration
from tests.edge.model_folder import point
from tests.edge.publications import Published
from tests.edge.rogue_camera import RogueCamera

SETTINGS = parse(configuration(queueSize=4, maxRequestBytes=2048, modelWaitSeconds=0, parallel=1))["digits"]


class FakeModel:
    """Answers with the index as the label, or fails."""

    runtime = None
    package = SimpleNamespace(name="digits", version="1.0.0", folder=Path("/models/1"), reference=None)

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def predict(self, request: Request, count: int) -> Prediction:
        assert self.gate.wait(30)
        if self.failure:
            raise self.failure
        return Prediction("1.0.0", [Score(str(request.index), 1.0)] * count)


class Answers:
    """A publisher that parses what it is given."""

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []

    def publish(self, topic: str, payload: bytes) -> Published:
        assert topic == RESPONSE
        self.items.append(json.loads(payload))
        return Published()


class Bench:
    """An endpoint with everything around it."""

    def __init__(self, folder: Path) -> None:
        self.model = FakeModel()
        self.answers = Answers()
        self.outbox = Outbox()
        self.outbox.attach(self.answers)
        threading.Thread(target=self.outbox.run, daemon=True).start()
        self.pointer = folder / "current"
        model: Any = self.model
        self.store = ModelStore(self.pointer, lambda _folder, _threads: model)
        self.endpoint = Endpoint(SETTINGS, "thing-1", self.store, self.outbox)
        self.endpoint.start()

    def load(self) -> None:
        point(self.pointer, Path("/models/1"))
        self.store.refresh()

    def ask(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            self.endpoint.submit(message if isinstance(message, bytes) else json.dumps(message).encode())

    def results(self, count: int) -> list[str]:
        """Label or error code of each answer, once so many are there."""
        deadline = time.monotonic() + 30
        while len(self.answers.items) < count:
            assert time.monotonic() < deadline, self.answers.items
            time.sleep(0.005)
        assert self.outbox.drain(30) == 0
        return [item["label"] if "label" in item else item["error"]["code"] for item in self.answers.items]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.endpoint.finish()
    assert made.endpoint.join(30) == 0
    made.outbox.close()


def test_answers_in_the_order_of_the_requests(bench: Bench) -> None:
    bench.load()

    bench.ask({"index": 1}, {"index": 2, "device": "thing-2"}, {"index": 3, "device": "thing-1"})

    assert bench.results(2) == ["1", "3"]
    assert bench.endpoint.counts.answered == 2


def test_patience_for_the_first_model_begins_with_the_arrival_and_not_behind_those_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: list[float] = []
    all_asked = threading.Event()

    def wait(until: float) -> None:
        assert all_asked.wait(30)
        given_up.append(until)

    monkeypatch.setattr(bench.store, "wait", wait)
    bench.ask({"index": 1}, {"index": 2}, {"index": 3})
    asked = time.monotonic()
    all_asked.set()

    assert bench.results(3) == ["ModelUnavailable"] * 3
    assert max(given_up) <= asked + SETTINGS.model_wait_s


def test_says_why_there_is_no_model_yet(bench: Bench) -> None:
    bench.ask({"index": 1, "request_id": "a"})

    assert bench.results(1) == ["ModelUnavailable"]
    assert bench.answers.items[0]["request_id"] == "a"
    assert "is the model's component deployed?" in bench.answers.items[0]["error"]["message"]


def test_a_request_waits_for_the_first_model(bench: Bench) -> None:
    bench.endpoint.settings = replace(SETTINGS, model_wait_s=30)
    bench.ask({"index": 5})
    time.sleep(0.05)

    bench.load()

    assert bench.results(1) == ["5"]


def test_what_does_not_fit_into_the_queue_gets_an_error_at_once(bench: Bench) -> None:
    bench.load()
    bench.model.gate.clear()
    bench.ask({"index": 0})
    wait_until(lambda: not bench.endpoint.waiting)  # the worker has taken it

    bench.ask(*({"index": index} for index in range(1, 5)), {"index": 9, "request_id": "late"})
    bench.ask({"index": 9, "device": "thing-2"})
    assert bench.results(1) == ["Overloaded"]
    assert bench.answers.items[0]["request_id"] == "late"
    bench.model.gate.set()

    assert bench.results(6) == ["Overloaded", "0", "1", "2", "3", "4"]


def test_only_answers_that_many_others_follow_may_wait_for_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    put, followed = bench.outbox.put, list[bool]()

    def watched(*arguments: Any, more: bool = False, **named: Any) -> bool:
        followed.append(more)
        return put(*arguments, more=more, **named)

    monkeypatch.setattr(bench.outbox, "put", watched)
    bench.endpoint.settings = replace(SETTINGS, queue_size=GROUP + 2)
    bench.load()
    bench.model.gate.clear()
    bench.ask({"index": 0})
    deadline = time.monotonic() + 30
    while bench.endpoint.waiting:
        assert time.monotonic() < deadline
        time.sleep(0.005)

    bench.ask(*({"index": number} for number in range(1, GROUP + 2)))
    bench.model.gate.set()

    assert bench.results(GROUP + 2) == [str(number) for number in range(GROUP + 2)]
    assert followed == [True] * 2 + [False] * GROUP


def test_a_failing_model_is_counted_told_and_survived(bench: Bench) -> None:
    bench.load()
    bench.model.failure = RuntimeError("no memory")
    bench.ask({"index": 1, "request_id": "a"})
    assert bench.results(1) == ["InternalError"]

    bench.model.failure = None
    bench.ask({"index": 2})

    assert bench.results(2) == ["InternalError", "2"]
    assert bench.answers.items[0]["error"]["message"] == "inference failed: RuntimeError: no memory"
    assert bench.endpoint.counts.failed == 1


def test_a_large_message_is_refused_and_the_next_one_answered(bench: Bench) -> None:
    bench.load()

    bench.ask(b"x" * 5_000_000, {"index": 1})

    assert sorted(bench.results(2)) == ["1", "RequestTooLarge"]


@given(payload=st.binary(max_size=3000))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_get_one_answer(bench: Bench, payload: bytes) -> None:
    bench.load()
    before = len(bench.answers.items)

    bench.ask(payload)

    assert len(bench.results(before + 1)) == before + 1


def test_finishing_answers_what_waits_first(bench: Bench) -> None:
    bench.load()
    bench.model.gate.clear()
    bench.ask({"index": 0}, {"index": 1}, {"index": 2})

    bench.endpoint.finish()
    bench.model.gate.set()

    assert bench.endpoint.join(30) == 0
    assert bench.results(3) == ["0", "1", "2"]


def test_each_side_gets_its_own_answers_in_order(bench: Bench) -> None:
    local, heard = Outbox(), Answers()
    local.attach(heard)
    threading.Thread(target=local.run, daemon=True).start()
    bench.endpoint._outboxes[Side.LOCAL] = local
    bench.load()

    for number in range(6):
        bench.endpoint.submit(json.dumps({"index": number}).encode(), Side.LOCAL if number % 2 else Side.CLOUD)
    bench.endpoint.submit(b"x" * 5_000, Side.LOCAL)

    assert bench.results(3) == ["0", "2", "4"]
    assert local.drain(30) == 0
    assert sorted(item.get("label") or item["error"]["code"] for item in heard.items) == [
        "1",
        "3",
        "5",
        "RequestTooLarge",
    ]
    local.close()


def test_a_full_outbox_of_the_cloud_holds_no_local_answer_back_and_loses_none_of_its_own(bench: Bench) -> None:
    bench.outbox.attach(None)
    local, heard = bench.outbox, bench.answers
    cloud = bench.endpoint._outboxes[Side.CLOUD] = Outbox(capacity=2)
    local.attach(heard)
    bench.endpoint._outboxes[Side.LOCAL] = local
    bench.load()

    for number in range(4):
        bench.endpoint.submit(json.dumps({"index": number}).encode())
    for number in range(10, 14):
        bench.endpoint.submit(json.dumps({"index": number}).encode(), Side.LOCAL)

    assert bench.results(4) == ["10", "11", "12", "13"]
    assert (cloud.waiting, cloud.dropped, bench.endpoint.waiting) == (2, 0, 2)
    late = Answers()
    cloud.attach(late)
    thread = threading.Thread(target=cloud.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while len(late.items) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [item["label"] for item in late.items] == ["0", "1", "2", "3"]
    cloud.close()
    thread.join(30)


def test_frames_of_a_camera_are_answered_until_the_configuration_names_none(bench: Bench) -> None:
    with RogueCamera() as camera:
        bench.endpoint.settings = replace(SETTINGS, camera_url=camera.url, camera_s=0.02)
        bench.endpoint.poll()
        assert not camera.requests, "nothing is read before there is a model"
        bench.load()
        bench.endpoint.poll()

        assert bench.results(3)[:3] == ["None"] * 3
        assert bench.answers.items[0]["request_id"].startswith("camera 20")

        bench.model.failure = RequestError(ErrorCode.INVALID_IMAGE, "cut off")
        wait_until(lambda: any("error" in item for item in bench.answers.items))
        found = bench.endpoint.camera
        assert found is not None
        wait_until(lambda: bool(found.state()["broken"]))
        beat = json.loads(Heartbeat("thing-1", bench.outbox).message([bench.endpoint]))
        assert beat["models"]["digits"]["camera"].keys() >= {"frames", "broken", "connections", "age_s"}

        bench.endpoint.settings = SETTINGS
        bench.endpoint.poll()
        assert bench.endpoint.camera is None
        read = found.state()["frames"]
        time.sleep(0.2)
        assert found.state()["frames"] in (read, read + 1 if isinstance(read, int) else None)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_camera_whose_thread_the_system_refused_is_opened_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.load()
    with RogueCamera() as camera:
        bench.endpoint.settings = replace(SETTINGS, camera_url=camera.url, camera_s=0.02)
        with monkeypatch.context() as patch:
            patch.setattr(Camera, "start", Mock(side_effect=RuntimeError("can't start new thread")))
            with pytest.raises(RuntimeError, match="can't start new thread"):
                bench.endpoint.poll()

        bench.endpoint.poll()

        wait_until(lambda: bool(camera.requests))
        bench.endpoint.settings = SETTINGS
        bench.endpoint.poll()


def test_what_has_ended_opens_no_camera_and_takes_no_files(bench: Bench, tmp_path: Path) -> None:
    bench.load()
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "1.json").write_text('{"index": 1}')
    os.utime(tmp_path / "watched" / "1.json", (0, 0))
    with RogueCamera() as camera:
        bench.endpoint.settings = replace(
            SETTINGS, camera_url=camera.url, watch_directory=str(tmp_path / "watched"), camera_s=0.02
        )
        bench.endpoint.finish()

        # The component's loop may have begun before the configuration took the model away.
        bench.endpoint.poll()

        assert bench.endpoint.camera is None
        assert bench.endpoint.join(30) == 0
        assert (tmp_path / "watched" / "1.json").exists()
