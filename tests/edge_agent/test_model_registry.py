from pathlib import Path
from typing import Never

import pytest

from edge_inference.agent import AgentError, Status
from edge_inference.agent.models import ModelRegistry


def never(folder: Path) -> Never:
    raise AssertionError(f"{folder} must not be loaded")


def test_weights_in_files_of_their_own_count_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    for name, size in (("manifest.json", 2), ("model.onnx", 8), ("weights/w.bin", 500)):
        (tmp_path / name).write_bytes(b"x" * size)
    registry = ModelRegistry(dict, never, max_models=1, memory=lambda: 1000)

    with pytest.raises(AgentError, match="the model needs about 1020 bytes, 1000 are free") as caught:
        registry.load(str(tmp_path), "large")

    assert caught.value.status is Status.RESOURCE_EXHAUSTED
    assert registry.models() == {}
