import ctypes
import gc

import pytest

from edge_inference import process_memory


def test_what_was_imported_is_frozen_once_and_a_model_stays_visible() -> None:
    process_memory.freeze.cache_clear()
    try:
        process_memory.freeze()
        frozen = gc.get_freeze_count()
        model: list[list[int]] = [[] for _ in range(1000)]
        process_memory.freeze()

        assert frozen > 1000
        assert gc.get_freeze_count() <= frozen
        assert gc.is_tracked(model)
    finally:
        gc.unfreeze()


def test_without_glibc_nothing_is_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(_name: object) -> object:
        raise OSError("no such library")

    process_memory._malloc_trim.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", without)

    process_memory.trim()

    process_memory._malloc_trim.cache_clear()
