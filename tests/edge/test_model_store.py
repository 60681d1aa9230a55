import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_inference.models.package import ModelPackageError
from edge_inference.models.runtime import Running
from edge_inference.models.store import FIRST_RETRY_S, LONGEST_RETRY_S, ModelStore, Workload
from tests.edge.model_folder import point


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeLoader:
    """Loads anything but the broken folders; remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.runnings: list[Running] = []
        self.broken: dict[str, Exception] = {}

    def __call__(self, folder: Path, running: Running) -> Workload:
        self.asked.append(folder.name)
        self.runnings.append(running)
        if folder.name in self.broken:
            raise self.broken[folder.name]
        model: Any = SimpleNamespace(package=SimpleNamespace(name="digits", version=folder.name))
        return model  # type: ignore[no-any-return]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def pointer(tmp_path: Path) -> Path:
    return tmp_path / "work" / "current"


@pytest.fixture
def store(pointer: Path, loader: FakeLoader, clock: Clock) -> ModelStore:
    return ModelStore(pointer, loader, clock)


def version(store: ModelStore) -> str | None:
    model = store.wait(0)
    return model.package.version if model else None


def test_another_way_to_run_loads_the_model_anew_once(store: ModelStore, pointer: Path, loader: FakeLoader) -> None:
    point(pointer, Path("/models/1"))
    ways = [Running(1), Running(1), Running(2), Running(2, "openvino"), Running(2, "openvino"), Running(1)]
    for running in ways:
        store.refresh(running)

    assert loader.runnings == [ways[0], ways[2], ways[3], ways[5]]
    assert (store.loads, version(store)) == (4, "1")


def test_has_no_model_and_says_why_before_the_pointer_is_there(store: ModelStore) -> None:
    store.refresh()

    assert version(store) is None
    assert "is the model's component deployed?" in store.problem


def test_loads_once_and_again_only_for_a_new_pointer(store: ModelStore, pointer: Path, loader: FakeLoader) -> None:
    point(pointer, Path("/models/1"))
    store.refresh()
    store.refresh()
    assert (version(store), store.problem, loader.asked) == ("1", "", ["1"])

    point(pointer, Path("/models/2"))
    store.refresh()

    assert (version(store), loader.asked) == ("2", ["1", "2"])


def test_keeps_the_model_when_the_new_one_is_broken_and_says_why(
    store: ModelStore, pointer: Path, loader: FakeLoader
) -> None:
    point(pointer, Path("/models/1"))
    store.refresh()
    loader.broken["2"] = ModelPackageError("model.onnx must have the SHA-256 a, got b")

    point(pointer, Path("/models/2"))
    store.refresh()

    assert version(store) == "1"
    assert store.problem == "model.onnx must have the SHA-256 a, got b"


@pytest.mark.parametrize("error", [OSError("gone"), MemoryError(), RuntimeError("x"), ValueError("y")])
def test_survives_any_failure_of_a_new_model(
    error: Exception, store: ModelStore, pointer: Path, loader: FakeLoader
) -> None:
    loader.broken["1"] = error
    point(pointer, Path("/models/1"))

    store.refresh()

    assert version(store) is None
    assert store.problem


def test_tries_a_broken_model_again_with_growing_pauses(
    store: ModelStore, pointer: Path, loader: FakeLoader, clock: Clock
) -> None:
    loader.broken["1"] = ModelPackageError("incomplete")
    point(pointer, Path("/models/1"))
    for _ in range(1000):
        store.refresh()
        clock.now += 1
    attempts = len(loader.asked)
    assert 15 < attempts < 60

    loader.broken.clear()
    clock.now += 60
    store.refresh()

    assert (version(store), store.problem, len(loader.asked)) == ("1", "", attempts + 1)


def test_a_new_pointer_begins_with_the_first_pause_however_long_the_old_one_had_failed(
    store: ModelStore, pointer: Path, loader: FakeLoader, clock: Clock
) -> None:
    loader.broken |= {version: ModelPackageError("incomplete") for version in ("1", "2")}
    point(pointer, Path("/models/1"))
    for _ in range(10):
        store.refresh()
        clock.now += LONGEST_RETRY_S

    point(pointer, Path("/models/2"))
    store.refresh()
    clock.now += FIRST_RETRY_S
    store.refresh()

    assert loader.asked[-3:] == ["1", "2", "2"]


def test_a_model_that_was_taken_is_not_loaded_again(
    store: ModelStore, pointer: Path, loader: FakeLoader, clock: Clock
) -> None:
    loader.broken["1"] = ModelPackageError("incomplete")
    point(pointer, Path("/models/1"))
    store.refresh()
    loader.broken.clear()

    for _ in range(3):
        clock.now += LONGEST_RETRY_S
        store.refresh()

    assert (version(store), loader.asked, store.loads) == ("1", ["1", "1"], 1)


def test_a_rewritten_pointer_is_followed_at_once(store: ModelStore, pointer: Path, loader: FakeLoader) -> None:
    loader.broken["1"] = ModelPackageError("incomplete")
    point(pointer, Path("/models/1"))
    store.refresh()
    loader.broken.clear()

    time.sleep(0.02)
    point(pointer, Path("/models/1"))
    store.refresh()

    assert version(store) == "1"


def test_keeps_the_model_when_the_pointer_vanishes(store: ModelStore, pointer: Path) -> None:
    point(pointer, Path("/models/1"))
    store.refresh()

    pointer.unlink()
    store.refresh()

    assert version(store) == "1"


def test_who_waits_gets_the_first_model(pointer: Path, loader: FakeLoader) -> None:
    store = ModelStore(pointer, loader)
    found: list[Workload | None] = []
    waiting = threading.Thread(target=lambda: found.append(store.wait(time.monotonic() + 30)))
    waiting.start()

    point(pointer, Path("/models/1"))
    store.refresh()
    waiting.join(30)

    assert found == [store.wait(0)]
    assert found[0] is not None


def test_who_waits_too_long_gets_none(pointer: Path, loader: FakeLoader) -> None:
    assert ModelStore(pointer, loader).wait(time.monotonic() + 0.05) is None


def test_a_copy_of_no_use_is_tried_again_with_growing_pauses_while_there_is_no_pointer(
    tmp_path: Path, pointer: Path, loader: FakeLoader, clock: Clock
) -> None:
    (tmp_path / "copies" / "1.0.0" / "digits").mkdir(parents=True)
    loader.broken["digits"] = ModelPackageError("damaged")
    store = ModelStore(pointer, loader, clock, copies=tmp_path / "copies")

    for _ in range(4):
        store.refresh(approved="1.0.0")
    assert loader.asked == ["digits"]
    clock.now += FIRST_RETRY_S
    for _ in range(4):
        store.refresh(approved="1.0.0")

    assert loader.asked == ["digits", "digits"]
