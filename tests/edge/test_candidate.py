"""A candidate beside the model in use: it is compared, approved or left, and no answer waits for it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_component.outbox import Outbox
from edge_handlers.promotion import Rules, decide
from edge_handlers.promotion import Sketch as RingSketch
from edge_inference.captures import CaptureFolder, CaptureQueue
from edge_inference.comparison import SHOWN, Compared, Shadow, Sketch, agree, in_turn, named
from edge_inference.endpoint import Endpoint
from edge_inference.heartbeat import Heartbeat
from edge_inference.messages import Prediction, Request, RequestError, Score, parse
from edge_inference.models.package import ModelPackage
from edge_inference.models.runtime import OnnxModel, Running, load
from edge_inference.models.store import ModelStore, load_workload
from tests.edge.file_bench import serving
from tests.edge.model_folder import describe, make_package, point

#: Zeros and ones are named as each other: one of five digits, or so, gets another label.
WRONG = ["1", "0", *map(str, range(2, 10))]


class Device:
    """An endpoint with a store as the component makes it, on a folder that outlives both."""

    def __init__(
        self,
        folder: Path,
        memory_mb: Callable[[], float] = lambda: 0.0,
        free_bytes: Callable[[], int] = lambda: 1 << 40,
    ) -> None:
        self.folder, self.outbox = folder, Outbox()
        self.loaded: list[str] = []
        self.captures = CaptureQueue(CaptureFolder(folder / "captures"), "thing-1")
        self.store = ModelStore(
            folder / "current",
            lambda package, running: load_workload(package, partial(self.load, running)),
            copies=folder / "copies",
            resident_mb=memory_mb,
            free_bytes=free_bytes,
        )
        self.endpoint = Endpoint(serving(), "thing-1", self.store, self.outbox, self.captures)

    def load(self, running: Running, package: ModelPackage) -> OnnxModel:
        self.loaded.append(package.version)
        return load(package, running)

    def follow(self, approved: str, version: str = "", limit_mb: int = 0, **changes: Any) -> None:
        """What the component's loop does, after a deployment where a version is given."""
        if version:
            shutil.rmtree(self.folder / "packages", ignore_errors=True)  # as a nucleus does with what it replaced
            point(self.folder / "current", make_package(self.folder / "packages" / version, version, **changes))
        self.store.refresh(Running(), approved, limit_mb)
        self.endpoint.poll()

    def ask(self, index: int, **more: Any) -> dict[str, Any]:
        self.endpoint.submit(json.dumps({"index": index, **more}).encode())
        self.endpoint.start()
        wait(lambda: self.outbox._memory)
        answer: dict[str, Any] = json.loads(self.outbox._memory.popleft().payload)
        return answer

    @property
    def report(self) -> dict[str, Any]:
        assert self.endpoint.sketch is not None
        return self.endpoint.sketch.report()

    def compare(self, count: int, **more: Any) -> dict[str, Any]:
        for index in range(count):
            before = self.report["inputs"]
            self.ask(index, **more)
            wait(lambda before=before: self.report["inputs"] > before)  # type: ignore[misc]
        return self.report


def wait(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    device = Device(tmp_path)
    device.follow("1.0.0", "1.0.0")
    return device


def test_without_approvals_a_new_version_takes_over_at_once(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.follow("", "1.0.0")
    device.follow("", "1.1.0")

    assert device.store.version == "1.1.0"
    assert device.store.candidate is None
    assert not (tmp_path / "copies").exists()


def test_a_candidate_answers_nobody_until_it_is_approved(device: Device) -> None:
    device.follow("none", "1.1.0")

    assert {device.ask(index)["model"]["version"] for index in range(3)} == {"1.0.0"}
    found = device.compare(10)
    assert (found["current"], found["version"], found["agreed"]) == ("1.0.0", "1.1.0", found["inputs"])
    assert found["differed"] == []
    assert sum(found["ratios"].values()) == sum(found["shifts"].values()) == found["inputs"]

    device.follow("1.1.0")

    assert device.ask(0)["model"]["version"] == "1.1.0"
    assert device.endpoint.sketch is None
    assert [folder.name for folder in (device.folder / "copies").iterdir()] == ["1.1.0"]


def test_what_a_worse_candidate_says_otherwise_is_counted_and_kept(device: Device) -> None:
    device.follow("none", "1.1.0", labels=WRONG)

    found = device.compare(40)

    assert 0 < found["inputs"] - found["agreed"] < 20
    first = found["differed"][0]
    assert {first["current"], first["candidate"]} == {"0", "1"}
    assert first["by"] > 0.9
    while device.captures.write_next(0):
        pass
    records = {record["id"]: record for record in map(_read, (device.folder / "captures").glob("*.json"))}
    record = records[first["id"]]
    assert record["reason"] == "candidate-differs"
    assert record["output"]["top_k"][0]["label"] == first["current"]
    assert record["candidate"]["version"] == "1.1.0"
    assert record["candidate"]["output"]["top_k"][0]["label"] == first["candidate"]
    assert len(found["differed"]) <= SHOWN


def _read(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_a_candidate_that_is_taken_back_leaves_the_model_in_use_as_it_is(device: Device) -> None:
    device.follow("none", "1.1.0", labels=WRONG)
    assert device.endpoint.sketch is not None

    device.follow("none", "1.0.0")

    assert device.store.candidate is None
    assert device.endpoint.sketch is None
    assert device.ask(0)["model"]["version"] == "1.0.0"


def test_after_a_restart_the_former_model_answers_and_the_candidate_is_compared_anew(device: Device) -> None:
    device.follow("none", "1.1.0", labels=WRONG)
    assert not (device.folder / "packages" / "1.0.0").exists()

    again = Device(device.folder)
    again.follow("none")

    assert again.ask(0)["model"]["version"] == "1.0.0"
    assert again.compare(1)["version"] == "1.1.0"
    third = Device(device.folder)
    third.follow("1.1.0")
    assert third.ask(0)["model"]["version"] == "1.1.0"


def test_a_copy_that_is_damaged_leaves_what_the_pointer_names(device: Device) -> None:
    device.follow("none", "1.1.0")
    (model,) = (device.folder / "copies").glob("*/*/model.onnx")
    model.write_bytes(b"no model")

    again = Device(device.folder)
    again.follow("none")

    assert again.ask(0)["model"]["version"] == "1.1.0"
    assert again.store.candidate is None


def test_a_copy_that_is_damaged_is_made_anew(device: Device) -> None:
    (model,) = (device.folder / "copies").glob("*/*/model.onnx")
    model.write_bytes(b"no model")
    again = Device(device.folder)
    again.follow("1.0.0")
    again.follow("none", "1.1.0")

    third = Device(device.folder)
    third.follow("none")

    assert third.ask(0)["model"]["version"] == "1.0.0"


def test_the_first_model_needs_nobody_to_compare_with(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.follow("none", "1.0.0")

    assert device.ask(0)["model"]["version"] == "1.0.0"


def test_a_candidate_that_takes_too_much_memory_is_not_run_but_told_and_may_be_approved(tmp_path: Path) -> None:
    memory = iter([0.0, 50.0, 200.0, 200.0, 200.0, 200.0])
    device = Device(tmp_path, lambda: next(memory))
    device.follow("1.0.0", "1.0.0")

    device.follow("none", "1.1.0", limit_mb=100)

    assert device.store.candidate is not None
    assert device.store.candidate.model is None
    assert device.ask(0)["model"]["version"] == "1.0.0"
    told = RingSketch.read(device.report, "thing-1")
    assert (told.inputs, told.memory_mb) == (0, 150)
    assert decide(Rules(memory_mb=100), told).verdict == "refuse"
    device.follow("1.1.0", limit_mb=100)
    assert device.ask(0)["model"]["version"] == "1.1.0"


def test_a_candidate_that_does_not_load_leaves_the_model_in_use(device: Device) -> None:
    device.follow("none", "1.1.0", outputs=[{"name": "other", "dtype": "float32", "shape": [1, 10]}])

    assert device.store.candidate is None
    assert "output must be named 'other'" in device.store.problem
    assert device.ask(0)["model"]["version"] == "1.0.0"


def test_switching_approvals_off_takes_the_candidate_and_the_copy_away(device: Device) -> None:
    device.follow("none", "1.1.0")
    device.follow("")

    assert device.store.version == "1.1.0"
    assert not (device.folder / "copies").exists()


def test_who_knows_what_an_input_is_says_so(device: Device) -> None:
    device.follow("none", "1.1.0", labels=WRONG)
    device.ask(0)
    wait(lambda: device.report["inputs"] == 1)
    right = device.ask(5)["label"]
    wait(lambda: device.report["inputs"] == 2)

    found = device.compare(1, label=right)

    assert found["labelled"] == 1
    with pytest.raises(RequestError, match="label must be a string of at most 128 characters, got 7"):
        parse(b'{"index": 1, "label": 7}', "thing-1")


def test_nothing_is_compared_while_an_answer_has_not_left() -> None:
    asked, quiet = threading.Event(), threading.Event()
    answer = Prediction("1", [Score("7", 0.9)])

    def predict(*_: Any) -> Prediction:
        asked.set()
        return answer

    candidate: Any = SimpleNamespace(predict=predict)
    shadow = Shadow(candidate, Sketch("1", "2", 0), quiet.is_set, lambda *_: None)

    for _ in range(100):
        shadow.offer(Compared(Request(None, index=0), answer, 1.0), 3, 0.0)

    assert not asked.wait(0.1)
    quiet.set()
    assert asked.wait(30)
    shadow.end()


def test_a_candidate_that_fails_on_an_input_differs_on_it() -> None:
    def fail(*_: Any) -> Prediction:
        raise ValueError("a model's output must be finite")

    sketch = Sketch("1", "2", 0)
    candidate: Any = SimpleNamespace(predict=fail)
    shadow = Shadow(candidate, sketch, lambda: True, lambda *_: None)
    shadow.offer(Compared(Request(None, index=0), Prediction("1", [Score("7", 0.9)]), 1.0), 3, 0.0)

    wait(lambda: sketch.report()["inputs"])
    assert sketch.report()["agreed"] == 0
    assert sketch.report()["differed"][0]["candidate"] == "failed"
    shadow.end()


def test_what_waits_for_a_candidate_that_is_given_up_is_not_compared() -> None:
    asked, answered = threading.Semaphore(0), threading.Event()
    answer = Prediction("1", [Score("7", 0.9)])

    def predict(*_: Any) -> Prediction:
        asked.release()
        assert answered.wait(30)
        return answer

    candidate: Any = SimpleNamespace(predict=predict)
    shadow = Shadow(candidate, Sketch("1", "given-up", 0), lambda: True, lambda *_: None)
    for _ in range(100):
        shadow.offer(Compared(Request(None, index=0), answer, 1.0), 3, 0.0)
    assert asked.acquire(timeout=30)

    shadow.end()
    answered.set()

    wait(lambda: not [each for each in threading.enumerate() if each.name == "candidate-given-up"])
    assert not asked.acquire(blocking=False)


def box(label: str, left: float, probability: float = 0.9) -> Score:
    return Score(label, probability, (left, 0, left + 10, 10))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([box("a", 0), box("b", 50)], [box("b", 52), box("a", 1)], True),
        ([box("a", 0)], [box("a", 8)], False),
        ([box("a", 0)], [box("b", 0)], False),
        ([box("a", 0)], [box("a", 0), box("a", 50)], False),
        ([box("a", 0)], [box("a", 0), box("a", 50, 0.1)], True),
        ([], [], True),
    ],
)
def test_detectors_agree_where_they_find_the_same_objects(first: Any, second: Any, same: bool) -> None:
    answers = [Prediction("1", scores, size=(100, 100)) for scores in (first, second)]

    assert agree(answers[0], answers[1], 0.4) is same
    assert named(answers[0], 0.4) == (", ".join(sorted(score.label for score in first)) or "nothing")


def test_tensors_agree_where_they_are_nearly_the_same() -> None:
    def tensors(*values: float) -> Prediction:
        return Prediction("1", outputs={"y": list(values)})

    assert agree(tensors(1.0, 2.0), tensors(1.0, 2.001))
    assert not agree(tensors(1.0, 2.0), tensors(1.0, 2.1))
    assert not agree(tensors(1.0), tensors(1.0, 2.0))
    assert not agree(tensors(1.0), Prediction("1", outputs={"z": [1.0]}))


def test_a_heartbeat_has_the_sketch_as_the_ring_reads_it_and_always_fits(device: Device) -> None:
    device.follow("none", "1.1.0", labels=WRONG)
    sketch = device.endpoint.sketch
    assert sketch is not None
    for place in range(400):
        said = Prediction("1", [Score(f"{'x' * 50}{place}", place / 400)])
        other = Prediction("1", [Score("y" * 60, 1 - place / 400)])
        sketch.add(Compared(Request(None, index=0), said, 2.0 ** (place % 20)), other, 2.0 ** (place % 7), 0)

    payload = Heartbeat("thing-1", device.outbox).message([device.endpoint])

    assert len(payload) <= 6000
    message = json.loads(payload)
    assert message["candidate"]["model"] == "digits"
    assert message["models"]["digits"]["version"] == "1.0.0"
    told = RingSketch.read(message["candidate"], "thing-1")
    assert (told.inputs, told.agreed, len(told.differed)) == (400, 0, SHOWN)


def test_several_models_are_told_in_turn() -> None:
    reports = {"a": {"inputs": 1}, "b": {"inputs": 2}}

    assert [in_turn(reports, number)["model"] for number in range(4)] == ["a", "b", "a", "b"]
    assert in_turn({}, 3) == {}


def test_a_candidate_whose_files_are_too_large_is_told_without_being_loaded(tmp_path: Path) -> None:
    device = Device(tmp_path, free_bytes=lambda: 0)
    device.follow("1.0.0", "1.0.0")

    package = make_package(tmp_path / "large" / "1.1.0")
    (package / "weights.bin").write_bytes(bytes(1_100_000))
    point(tmp_path / "current", describe(package, "1.1.0"))
    device.follow("none", limit_mb=1)

    assert device.store.candidate is not None
    assert (device.store.candidate.model, device.store.candidate.version) == (None, "1.1.0")
    assert 1.1 < device.report["memory_mb"] < 1.3
    assert device.loaded == ["1.0.0"]
    device.follow("none", limit_mb=2)
    assert device.store.candidate is not None
    assert device.store.candidate.model is None, "it fits now, but no memory is free"
    assert "to be compared, 0 are free" in device.store.problem
    device.follow("1.1.0", limit_mb=1)
    assert device.ask(0)["model"]["version"] == "1.1.0"


def test_a_candidate_for_which_no_memory_is_left_waits_for_it(tmp_path: Path) -> None:
    left = [0]
    device = Device(tmp_path, free_bytes=lambda: left[0])
    device.follow("1.0.0", "1.0.0")

    device.follow("none", "1.1.0")

    assert "bytes of memory to be compared, 0 are free" in device.store.problem
    assert (device.loaded, device.store.candidate) == (["1.0.0"], None)
    assert device.ask(0)["model"]["version"] == "1.0.0"
    left[0] = 1 << 40
    device.store._retry_at = 0.0
    device.follow("none")
    device.follow("none")
    assert device.store.candidate is not None
    assert (device.store.problem, device.loaded) == ("", ["1.0.0", "1.1.0"])


def test_another_way_to_run_is_that_of_the_model_in_use_and_of_the_candidate(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.follow("1.0.0", "1.0.0")
    device.follow("none", "1.1.0")
    device.loaded.clear()

    device.store.refresh(Running(threads=2), "none")
    device.store.refresh(Running(threads=2), "none")

    assert device.loaded == ["1.0.0", "1.1.0"]
    assert device.store.candidate is not None
    assert (device.store.version, device.store.candidate.version) == ("1.0.0", "1.1.0")
