"""What a large input took is given back: during its run, and with the next small one."""

from typing import Any

import numpy as np
import pytest

from edge_component import process
from edge_inference.models.runtime import LARGE_BYTES, run_session

LARGE, SMALL = np.zeros(LARGE_BYTES, np.uint8), np.zeros(1, np.uint8)


class Session:
    """Notes whether the arena was to shrink after each run."""

    def __init__(self, *outputs: Any) -> None:
        self.shrunk: list[bool] = []
        self.outputs = list(outputs)

    def run(self, _outputs: Any, _values: Any, options: Any) -> list[Any]:
        key = "memory.enable_memory_arena_shrinkage"
        self.shrunk.append(options is not None and options.get_run_config_entry(key) == "cpu:0")
        return [self.outputs.pop(0)] if self.outputs else []


def test_a_large_output_of_a_small_input_is_given_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sequence or a map, as of a ZipMap, is no array: it has no size.
    session, trims = Session(SMALL, LARGE, [{"a": 0.5}], SMALL, SMALL), list[int]()
    monkeypatch.setattr(process, "trim", lambda: trims.append(len(session.shrunk)))

    for _ in range(5):
        run_session(session, None, {"x": SMALL})

    assert session.shrunk == [False, False, True, False, False]
    assert trims == [3]


def test_large_tensors_among_small_ones_count_together() -> None:
    session, half = Session(), np.zeros(LARGE_BYTES // 2, np.uint8)

    run_session(session, None, {"x": half, "y": half})
    run_session(session, None, {"x": half})
    run_session(session, None, {"x": half})

    assert session.shrunk == [True, True, False]


def test_the_small_run_after_a_large_one_gives_the_rest_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session, other, trims = Session(), Session(), list[int]()
    monkeypatch.setattr(process, "trim", lambda: trims.append(len(session.shrunk)))

    for values in (SMALL, LARGE, LARGE, SMALL, SMALL):
        run_session(session, None, {"x": values})
        run_session(other, None, {"x": SMALL})

    assert session.shrunk == [False, True, True, True, False]
    assert other.shrunk == [False] * 5
    assert trims == [4]


def test_a_system_that_cannot_trim_its_heap_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _name: object())
    process._library_call.cache_clear()

    process.trim()

    process._library_call.cache_clear()
